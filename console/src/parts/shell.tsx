/** The frame of every page: bar, navigation, the page, its dialogs. */
import { signal } from "@preact/signals";
import type { FunctionComponent } from "preact";
import { useEffect, useState } from "preact/hooks";
import { RequestError } from "../api/problem.ts";
import { match } from "../paths.ts";
import { Link, path } from "../router.tsx";
import { NAVIGATION, type PageProps, type PageRoute, ROUTES } from "../routes.ts";
import { approvalsWaiting, countApprovals } from "../state/approvals-waiting.ts";
import { followEvents, useEvents } from "../state/events.ts";
import { loginGate, proofGate } from "../state/login.ts";
import { mayDo } from "../state/rights.ts";
import { loginProblem } from "../state/login-problem.ts";
import { loggedOutFrom, logout, me } from "../state/session.ts";
import { setTaste, taste } from "../state/taste.ts";
import { Empty } from "./empty.tsx";
import { Icon } from "./icon.tsx";
import { Help, helpOpen, paletteOpen } from "./keyboard.tsx";
import { LoginDialog, LoginProblemDialog, LogoutDialog, ProofDialog } from "./login.tsx";
import { Menu, type MenuItem } from "./menu.tsx";
import { Palette } from "./palette.tsx";
import { showIcon } from "./tab-icon.ts";
import { Toasts } from "./toast.tsx";
import type { Tone } from "./tone.ts";
import { Trouble } from "./trouble.tsx";

/** Title of the page that is shown, and the tone of what it shows. */
const title = signal<{ text: string; tone: Tone | null }>({ text: "", tone: null });

/** Set the tab's title, and its icon by a tone: the state first, since tabs are narrow. */
export function useTitle(text: string, tone: Tone | null = null): void {
  useEffect(() => {
    title.value = { text, tone };
  }, [text, tone]);
}

export function Shell() {
  const found = findPage();
  const { text, tone } = title.value;
  useEffect(() => {
    document.title = text ? `${text} · opsjobs` : "opsjobs";
    showIcon(tone);
  }, [text, tone]);
  useEffect(() => {
    title.value = { text: found?.route.title ?? "Not found", tone: null };
  }, [path.value]);
  const known = me.value !== null;
  useEffect(() => (known ? followEvents() : undefined), [known]);
  useEffect(() => {
    if (known) void countApprovals();
  }, [known]);
  useEvents(["approval.*"], countApprovals);
  return (
    <>
      <a class="skip" href="#page">
        To the page
      </a>
      <Bar />
      <main id="page" class="page" tabIndex={-1}>
        {me.value && <PageView route={found?.route ?? null} parameters={found?.parameters ?? {}} />}
      </main>
      {paletteOpen.value && <Palette />}
      {helpOpen.value && <Help />}
      {loggedOutFrom.value && <LogoutDialog />}
      {loginGate.open.value && !loggedOutFrom.value && <LoginDialog />}
      {me.value && !loginGate.open.value && loginProblem.value && <LoginProblemDialog />}
      {proofGate.open.value && <ProofDialog />}
      <Toasts />
    </>
  );
}

function findPage(): { route: PageRoute; parameters: PageProps } | null {
  for (const route of ROUTES) {
    const parameters = match(route.pattern, path.value);
    if (parameters) return { route, parameters };
  }
  return null;
}

function Bar() {
  const seen = NAVIGATION.filter((entry) => !entry.needs || mayDo(entry.needs));
  const places = seen.filter((entry) => entry.inBar);
  const others = seen.filter((entry) => !entry.inBar);
  const item = (entry: (typeof NAVIGATION)[number]): MenuItem => ({
    label: entry.label,
    href: `/console${entry.path}`,
    shortcut: `g ${entry.key}`,
  });
  return (
    <header class="bar">
      <span class="burger">
        <Menu label={<Icon name="menu" />} name="Pages" kind="plain" items={seen.map(item)} />
      </span>
      <Link to="/" class="brand">
        opsjobs
      </Link>
      <nav aria-label="Pages">
        {places.map((entry) => (
          <Link
            key={entry.path}
            to={entry.path}
            aria-current={isOpen(entry.path) ? "page" : undefined}
          >
            {entry.label}
            {entry.path === "/approvals" && approvalsWaiting.value > 0 && (
              <span class="badge" aria-label={`${approvalsWaiting.value} wait for a decision`}>
                {approvalsWaiting.value}
              </span>
            )}
          </Link>
        ))}
        {others.length > 0 && <Menu label="More" kind="plain" items={others.map(item)} />}
      </nav>
      <button
        type="button"
        class="button plain"
        title="Go to anything (Ctrl-K)"
        onClick={() => {
          paletteOpen.value = true;
        }}
      >
        <Icon name="search" />
        <span class="hidden-text">Go to anything</span>
        <kbd class="wide">Ctrl-K</kbd>
      </button>
      <button
        type="button"
        class="button plain wide"
        title="Keys (?)"
        onClick={() => {
          helpOpen.value = true;
        }}
      >
        <kbd>?</kbd>
        <span class="hidden-text">Show the keys</span>
      </button>
      {me.value && <PersonMenu name={me.value.name} />}
    </header>
  );
}

function isOpen(place: string): boolean {
  return place === "/" ? path.value === "/" : `${path.value}/`.startsWith(`${place}/`);
}

function PersonMenu({ name }: { name: string }) {
  const { theme, density, clock } = taste.value;
  const items: (MenuItem | null)[] = [
    ...(["system", "light", "dark"] as const).map((one) => ({
      label: `${theme === one ? "● " : "○ "}Theme: ${one}`,
      onChoose: () => setTaste({ theme: one }),
    })),
    null,
    {
      label: density === "compact" ? "Rows: normal" : "Rows: compact",
      onChoose: () => setTaste({ density: density === "compact" ? "normal" : "compact" }),
    },
    {
      label: clock === "utc" ? "Times: of this place" : "Times: UTC",
      onChoose: () => setTaste({ clock: clock === "utc" ? "local" : "utc" }),
    },
    null,
    { label: "My account", href: "/console/me" },
    { label: "Log out", onChoose: () => void logout() },
  ];
  return <Menu label={<span class="cut">{name}</span>} kind="plain" items={items} />;
}

function PageView({ route, parameters }: { route: PageRoute | null; parameters: PageProps }) {
  const [page, setPage] = useState<{ route: PageRoute; Page: FunctionComponent<PageProps> } | null>(
    null,
  );
  const [failed, setFailed] = useState(false);
  useEffect(() => {
    let gone = false;
    setFailed(false);
    route?.load().then(
      (module) => !gone && setPage({ route, Page: module.default }),
      () => !gone && setFailed(true),
    );
    return () => {
      gone = true;
    };
  }, [route]);
  if (!route)
    return (
      <>
        <h1>Not found</h1>
        <Empty why={`There is no page ${path.value}.`}>
          <Link to="/">Back to Now</Link>
        </Empty>
      </>
    );
  if (failed) return <Trouble error={newVersion()} onRetry={() => location.reload()} />;
  if (page?.route !== route) return null;
  return <page.Page key={path.value} {...parameters} />;
}

/** The error of a page's script that is not there: mostly, opsjobs was upgraded. */
function newVersion(): RequestError {
  return new RequestError({
    type: "about:blank",
    title: "Not loaded",
    status: 0,
    detail:
      "This page could not be loaded. Was opsjobs upgraded? Try again: the tab is loaded anew.",
    code: "page_not_loaded",
    request_id: "",
  });
}
