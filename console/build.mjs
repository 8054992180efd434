// Bundle the console into a folder: node build.mjs FOLDER. Two builds of one source give the same bytes.
import { writeFileSync } from "node:fs";
import { basename } from "node:path";
import { build } from "esbuild";

const [folder] = process.argv.slice(2);
const common = {
  bundle: true,
  minify: true,
  metafile: true,
  outdir: folder,
  entryNames: "[name]-[hash]",
  chunkNames: "[name]-[hash]",
  assetNames: "[name]-[hash]",
  target: ["es2022"],
  legalComments: "linked",
  loader: { ".svg": "copy" },
};
const app = await build({
  ...common,
  entryPoints: ["src/main.tsx", "src/icon.svg"],
  splitting: true,
  format: "esm",
  jsx: "automatic",
  jsxImportSource: "preact",
});
// Runs before the page is drawn, so that the chosen theme never flashes.
const boot = await build({ ...common, entryPoints: ["src/boot.ts"], format: "iife" });

const outputs = Object.entries({ ...app.metafile.outputs, ...boot.metafile.outputs });
const built = (source) => {
  const [path, output] = outputs.find(([, output]) => output.entryPoint === source);
  return { script: basename(path), style: output.cssBundle && basename(output.cssBundle) };
};
const icon = basename(outputs.find(([path]) => path.endsWith(".svg"))[0]);
const main = built("src/main.tsx");
const page = `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>opsjobs</title>
<meta name="viewport" content="width=device-width">
<link rel="icon" href="/console/${icon}">
<script src="/console/${built("src/boot.ts").script}"></script>
<link rel="stylesheet" href="/console/${main.style}">
<script type="module" src="/console/${main.script}"></script>
<body><div id="app"></div><noscript>The console needs JavaScript. All of it can also be done with the command opsjobs.</noscript></body>
</html>
`;
writeFileSync(`${folder}/index.html`, page);
