// Bundle the console into a folder: node build.mjs FOLDER. Two builds of one source give the same bytes.
import { createHash } from "node:crypto";
import { readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
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
const nameOf = (outputs, source) =>
  basename(Object.entries(outputs).find(([, output]) => output.entryPoint === source)[0]);
const DIFF_WORKER = "src/diff/diff.worker.ts";
const worker = await build({ ...common, entryPoints: [DIFF_WORKER], format: "iife" });
const app = await build({
  ...common,
  define: {
    DIFF_WORKER: JSON.stringify(`/console/${nameOf(worker.metafile.outputs, DIFF_WORKER)}`),
  },
  entryPoints: ["src/main.tsx", "src/icon.svg"],
  splitting: true,
  format: "esm",
  jsx: "automatic",
  jsxImportSource: "preact",
});
// Runs before the page is drawn, so that the chosen theme never flashes.
const boot = await build({ ...common, entryPoints: ["src/boot.ts"], format: "iife" });

const built = { ...app.metafile.outputs, ...boot.metafile.outputs, ...worker.metafile.outputs };
const outputs = Object.entries(built);
const script = (source) => nameOf(built, source);
const icon = basename(outputs.find(([path]) => path.endsWith(".svg"))[0]);
// Pages are loaded when they are asked for; their styles come with the first one, in one file. The
// sheet of a page repeats those that it shares with others, so each source is bundled once instead:
// first those of the frame, so that a page can change what it shares.
const sheets = outputs.map(([path]) => path).filter((path) => path.endsWith(".css"));
const [, main] = outputs.find(([, output]) => output.entryPoint === "src/main.tsx");
const ordered = sheets.sort((a, b) => {
  return (b === main.cssBundle) - (a === main.cssBundle) || (a < b ? -1 : 1);
});
const sources = new Set(ordered.flatMap((path) => Object.keys(built[path].inputs)));
for (const path of sheets) rmSync(path);
const { outputFiles } = await build({
  stdin: {
    contents: [...sources].map((path) => `@import "./${path}";`).join("\n"),
    loader: "css",
    resolveDir: ".",
  },
  bundle: true,
  minify: true,
  write: false,
});
const style = outputFiles[0].text;
const hash = createHash("sha256").update(style).digest("hex").slice(0, 8).toUpperCase();
writeFileSync(`${folder}/style-${hash}.css`, style);

// The licences of what is bundled go beside it.
const packages = outputs
  .flatMap(([, output]) => Object.keys(output.inputs))
  .map((path) => /(?:^|\/)node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(path)?.[1])
  .filter(Boolean);
const licences = [...new Set(packages)].sort().map((name) => {
  const folder = `node_modules/${name}`;
  const { version } = JSON.parse(readFileSync(`${folder}/package.json`, "utf8"));
  const file = readdirSync(folder).find((one) => /^licen[cs]e/i.test(one));
  if (!file) throw new Error(`${name} has no licence`);
  return `${name} ${version}\n\n${readFileSync(`${folder}/${file}`, "utf8").trim()}\n`;
});
writeFileSync(`${folder}/licences.txt`, licences.join("\n---\n\n"));

const page = `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>opsjobs</title>
<meta name="viewport" content="width=device-width">
<link rel="icon" href="/console/${icon}">
<script src="/console/${script("src/boot.ts")}"></script>
<link rel="stylesheet" href="/console/style-${hash}.css">
<script type="module" src="/console/${script("src/main.tsx")}"></script>
<body><div id="app"></div><noscript>The console needs JavaScript. All of it can also be done with the command opsjobs.</noscript></body>
</html>
`;
writeFileSync(`${folder}/index.html`, page);
