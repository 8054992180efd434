/** The frame of every page: bar, navigation, the page, its dialogs. */
import { signal } from "@preact/signals";
import type { FunctionComponent } from "preact";
import { useEffect, useState } from "preact/hooks";
import { attempt } from "../api/ask.ts";
import { RequestError } from "../api/problem.ts";
import { match } from "../paths.ts";
import { Link, path } from "../router.tsx";
import { type PageProps, type PageRoute, ROUTES } from "../routes.ts";
import { approvalsWaiting, countApprovals } from "../state/approvals-waiting.ts";
import { followEvents, useEvents } from "../state/events.ts";
import { loginGate, proofGate } from "../state/login.ts";
import { loginProblem } from "../state/login-problem.ts";
import { mayOpen, type Place, places } from "../state/rights.ts";
import { loggedOutFrom, logout, me, unknownMe } from "../state/session.ts";
import { setTaste, taste } from "../state/taste.ts";
import { leaving } from "../state/unsaved.ts";
import { Empty } from "./empty.tsx";
import { useHeadingFocus } from "./heading-focus.ts";
import { Icon } from "./icon.tsx";
import { Help, helpOpen, paletteOpen, placeKeys, useKeys } from "./keyboard.tsx";
import { LeaveDialog } from "./leave.tsx";
import { LoginDialog, LoginProblemDialog, LogoutDialog, ProofDialog } from "./login.tsx";
import { Menu, type MenuItem } from "./menu.tsx";
import { zoneOf } from "./moment.ts";
import { Palette } from "./palette.tsx";
import { showIcon } from "./tab-icon.ts";
import { Toasts, toastError } from "./toast.tsx";
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
  useKeys(placeKeys, [me.value]);
  useHeadingFocus(path.value);
  return (
    <>
      <a class="skip" href="#page">
        Skip to the content
      </a>
      <Bar />
      <main id="page" class="page" tabIndex={-1}>
        {me.value && <PageView route={found?.route ?? null} parameters={found?.parameters ?? {}} />}
        {!me.value && unknownMe.value && (
          <Trouble {...unknownMe.value} onRetry={() => location.reload()} />
        )}
      </main>
      {paletteOpen.value && <Palette />}
      {helpOpen.value && <Help />}
      {leaving.value && <LeaveDialog />}
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

/** So few places need no menu. */
const IN_BAR = 7;

function Bar() {
  const seen = places();
  const few = seen.length <= IN_BAR;
  const inBar = seen.filter((entry) => entry.inBar || few);
  const others = seen.filter((entry) => !inBar.includes(entry));
  const item = (entry: Place): MenuItem => ({
    label: entry.label,
    href: `/console${entry.to}`,
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
        {inBar.map((entry) => (
          <Link
            key={entry.path}
            to={entry.to}
            aria-current={isOpen(entry.path) ? "page" : undefined}
          >
            {entry.label}
            {entry.path === "/approvals" && approvalsWaiting.value > 0 && (
              <span class="badge" aria-label={`${approvalsWaiting.value} wait for your approval`}>
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
        title="Keyboard shortcuts (?)"
        onClick={() => {
          helpOpen.value = true;
        }}
      >
        <kbd>?</kbd>
        <span class="hidden-text">Show the keyboard shortcuts</span>
      </button>
      <span class="small dim wide zone" title="All times are in this zone. Your menu changes it.">
        {zoneOf(taste.value.clock)}
      </span>
      {me.value && <PersonMenu name={me.value.name} />}
    </header>
  );
}

function isOpen(place: string): boolean {
  return place === "/" ? path.value === "/" : `${path.value}/`.startsWith(`${place}/`);
}

function PersonMenu({ name }: { name: string }) {
  const { theme, density, clock } = taste.value;
  const mark = (chosen: boolean) => (chosen ? "● " : "○ ");
  const clocks = zoneOf("local") === "UTC" ? [] : (["local", "utc"] as const);
  const items: (MenuItem | null)[] = [
    ...(["system", "light", "dark"] as const).map((one) => ({
      label: `${mark(theme === one)}Theme: ${one}`,
      onChoose: () => setTaste({ theme: one }),
    })),
    null,
    {
      label: density === "compact" ? "Rows: normal" : "Rows: compact",
      onChoose: () => setTaste({ density: density === "compact" ? "normal" : "compact" }),
    },
    ...clocks.map((one) => ({
      label: `${mark(clock === one)}Times: ${zoneOf(one)}`,
      onChoose: () => setTaste({ clock: one }),
    })),
    null,
    { label: "My account", href: "/console/me" },
    { label: "Log out", onChoose: () => void endSession() },
  ];
  return <Menu label={<span class="cut">{name}</span>} kind="plain" items={items} />;
}

/** Log out; the menu is closed by then, so a refusal is said beside the page. */
async function endSession(): Promise<void> {
  try {
    await logout();
  } catch (failed) {
    if (!(failed instanceof RequestError)) throw failed;
    toastError(failed);
  }
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
  if (!mayOpen(route)) return <NotYours route={route} />;
  if (failed) return <Trouble error={newVersion()} onRetry={() => void reloadIfUp()} />;
  if (page?.route !== route) return null;
  return <page.Page key={path.value} {...parameters} />;
}

/** A page that the person's role has nothing on. */
function NotYours({ route }: { route: PageRoute }) {
  const { needs } = route;
  const where = needs?.everywhere ? " without a scope" : "";
  return (
    <>
      <h1>{route.title}</h1>
      <Empty
        why={
          needs && !mayOpen({ ...route, pattern: "/" })
            ? `Your role does not hold ${needs.permission}${where}, which this page needs. Ask an administrator.`
            : "Your role only launches jobs: this page is for those who also manage them."
        }
      >
        <Link to="/">Back to Now</Link>
      </Empty>
    </>
  );
}

/** Load the tab again; a browser would lose the page if opsjobs does not answer. */
async function reloadIfUp(): Promise<void> {
  try {
    await attempt(location.pathname, { method: "HEAD" });
    location.reload();
  } catch (failed) {
    if (!(failed instanceof RequestError)) throw failed;
    toastError(failed);
  }
}

/** The error of a page's script that is not there: mostly, opsjobs was upgraded. */
function newVersion(): RequestError {
  return new RequestError({
    type: "about:blank",
    title: "Not loaded",
    status: 0,
    detail:
      "This page could not be loaded. opsjobs does not answer, or was upgraded. Try again to reload the tab.",
    code: "page_not_loaded",
    request_id: "",
  });
}
