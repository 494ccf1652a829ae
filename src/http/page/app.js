// The status page: asks the daemon, and shows what it says. It changes nothing: there is no request but GET.
//
// With each summary the names on show are asked for again, and the instances of those that are open. What is chosen (search,
// state, open names) stands in the URL, so that a link shows the same elsewhere.

import { age, command, count, freeze, h, millis, quote, sync, tick, write } from "./dom.js";
import { STATES, name, reason, since, word } from "./names.js";
import { get, missing, search } from "./search.js";
import { watch } from "./watch.js";

const OPEN_MAX = 5;
const SILENT_MS = 4000;
const ROWS = 100;
const ROWS_MAX = 500;
const REST_MAX = 30000;
const $ = (id) => document.getElementById(id);

const chosen = { text: "", state: "", open: [], limit: ROWS };
let summary = null;
let heard = performance.now();
let paused = false;
let asking = null;
let answered = "";
let restUntil = 0;
/** The name that a link leads to, until it has been scrolled to. */
let sought = null;
/** The name that a link led to. */
let marked = null;

const page = {
  now: () => summary.now,
  isOpen: (id) => chosen.open.includes(id),
  isMarked: (id) => marked === id,
  toggle(id) {
    if (marked === id) marked = null;
    chosen.open = page.isOpen(id) ? chosen.open.filter((other) => other !== id) : [...chosen.open, id].slice(-OPEN_MAX);
    remember();
    askNames();
  },
  cli(words) {
    const [host, port] = [summary.grpcAddress.replace(/:\d+$/, ""), summary.grpcAddress.match(/\d+$/)?.[0]];
    if (summary.grpcAddress === "127.0.0.1:7717") return `musterd ${words}`;
    const reachable = ["0.0.0.0", "[::]"].includes(host) ? location.hostname : host;
    return `musterd --addr ${quote(`${reachable}:${port}`)} ${words}`;
  },
};

// ---- What is chosen ----

function recall() {
  const url = new URLSearchParams(location.search);
  chosen.text = url.get("filter") ?? "";
  chosen.state = url.get("state") in STATES ? url.get("state") : "";
  chosen.open = url.getAll("open").slice(-OPEN_MAX);
  $("text").value = chosen.text;
  sought = marked = chosen.open.at(-1) ?? null;
}

function remember() {
  const url = new URLSearchParams();
  if (chosen.text) url.set("filter", chosen.text);
  if (chosen.state) url.set("state", chosen.state);
  for (const id of chosen.open) url.append("open", id);
  const query = url.toString();
  history.replaceState(null, "", query ? `?${query}` : location.pathname);
}

// ---- Asking ----

/** Asks for the names on show. A search through very many takes its time, and is then repeated less often. */
async function askNames() {
  asking?.abort();
  const mine = (asking = new AbortController());
  const began = performance.now();
  const question = JSON.stringify([chosen.text, chosen.state, chosen.limit]);
  // What is on show stays there while the same is asked for again.
  const progress = (found) => question !== answered && showNames(found, true);
  try {
    const found = await search(chosen, mine.signal, progress);
    const others = found.error ? [] : await missing(chosen.open, found.names, mine.signal);
    const known = new Set([...(found.names ?? []), ...others].map((row) => row.logicalId));
    // Under a search or a state only what it finds is listed, whatever is open besides.
    if (!chosen.text && !chosen.state) found.names?.unshift(...others);
    answered = question;
    showNames(found, false);
    if (found.error) return;
    const open = found.names.map((row) => row.logicalId).filter(page.isOpen);
    showOpen(open, await Promise.all(open.map((id) => get("explain", { name: id }, mine.signal))));
    showUnknown(chosen.open.filter((id) => !known.has(id)));
  } catch (error) {
    // Another question took its place, or the daemon is away, which the watch below tells.
    if (error.name !== "AbortError") console.info(error.message);
  } finally {
    if (asking === mine) {
      asking = null;
      restUntil = performance.now() + Math.min(10 * (performance.now() - began), REST_MAX);
    }
  }
}

function receive(next) {
  if (summary && summary.version !== next.version) return location.reload();
  heard = performance.now();
  summary = next;
  showSummary();
  if (!asking && !document.hidden && heard >= restUntil) askNames();
}

const summaries = watch(receive);

// ---- Showing ----

const HEADLINE = { ok: "Healthy", warning: "Warning", critical: "Critical" };

/** The headline, and a card for each problem. The daemon judges; here it is shown. */
function showVerdict() {
  const problems = summary.problems;
  document.body.dataset.severity = summary.severity;
  const brief = [...new Set(problems.filter((problem) => !problem.cause).map((problem) => problem.brief))].join(", ");
  const { alive, logicalIdsLive: served } = summary.counts;
  const serving = `${count(alive)} ${alive === 1 ? "instance serves" : "instances serve"} ${count(served)} ${served === 1 ? "logical id" : "logical ids"}`;
  write($("verdict"), `${HEADLINE[summary.severity]}: ${brief || serving}.`);
  document.title = `${{ critical: "✖ ", warning: "! " }[summary.severity] ?? ""}musterd ${location.host}`;
  const numbered = problems.map((it, at, all) => ({ ...it, number: all.slice(0, at).filter((other) => other.code === it.code).length }));
  sync($("problems"), numbered, (it) => `${it.code} ${it.cause} ${it.number}`, problem);
}

/** A card. A consequence is a line below its cause. */
function problem(it) {
  const text = h("strong");
  const more = it.cause ? [] : [h("p", null, it.action), it.command ? command(page.cli(it.command.slice(8))) : null];
  const element = h("li", { class: it.cause ? "consequence" : "cause" }, text, ...more);
  element.update = (it) => {
    element.dataset.severity = it.severity;
    write(text, it.summary);
  };
  return element;
}

/** The most severe of the problems with these codes. */
function severity(...codes) {
  const found = summary.problems.filter((problem) => codes.includes(problem.code)).map((problem) => problem.severity);
  return ["critical", "warning"].find((word) => found.includes(word)) ?? "ok";
}

/** One of the facts: a title, a large value, and lines that explain it. */
function fact([key, title]) {
  const value = h("strong");
  const lines = h("span", { class: "lines" });
  const element = h("div", null, h("dt", null, title), h("dd", null, value, lines));
  element.update = ([, , large, small, tone]) => {
    element.dataset.tone = tone ?? "";
    write(value, large);
    sync(lines, small.filter(Boolean).map((text, at) => [at, text]), ([at]) => at, () => {
      const line = h("span");
      line.update = ([, text]) => write(line, text);
      return line;
    });
  };
  element.dataset.key = key;
  return element;
}

function facts() {
  const { counts, names, deathsLately: deaths, beats, cluster, hold, brake } = summary;
  const away = summary.problems.some((problem) => problem.code === "database_away");
  const reaped = summary.lastReapAge ? `reaper looked ${age(millis(summary.lastReapAge))} ago` : null;
  const expiry = { running: "running", held: "on hold", paced: "slowed", protected: "stopped", unknown: "unknown" }[summary.expiry];
  const overdue = brake ? `${count(brake.overdue)} of ${count(brake.live)} overdue` : null;
  const why = { held: hold ? `${hold.reason}; ${age(millis(hold.remaining))} to go` : null, paced: overdue, protected: overdue, unknown: "PostgreSQL is away" }[summary.expiry];
  const epochAge = cluster?.epochStartedAt ? `began ${age(since(cluster.epochStartedAt, summary.now))} ago` : null;
  const dead = ["stale", "operator", "old_epoch", "replaced", "deregistered"].filter((key) => deaths[key]);
  return [
    ["alive", "Alive", count(counts.alive), [`${count(counts.suspect)} suspect`, `${count(counts.starting)} starting, ${count(counts.draining)} draining`], counts.suspect ? "warning" : ""],
    ["names", "Unserved", count(names.unserved), [summary.unserved.slice(0, 3).join(", ") + (names.unserved > 3 ? ", …" : ""), `${count(counts.logicalIdsLive)} served`], severity("unserved")],
    ["dead", "Died in 10 min", count(deaths.total), dead.map((key) => `${count(deaths[key])} ${key.replace("_", " ")}`), deaths.stale ? "warning" : ""],
    ["beats", "Beats/s here", beats.received === null ? "…" : count(beats.received), [`${count(beats.expectedHere)} expected here`, `${count(beats.expected)} on all daemons`], beats.late ? "warning" : ""],
    ["expiry", "Expiry", expiry, [why, reaped], summary.expiry === "unknown" ? "warning" : severity("hold", "brake_pace", "brake_protect", "reaper_failing", "reaper_late")],
    ["database", "PostgreSQL", away ? "away" : "answers", [`confirmed ${age(millis(summary.staleFor))} ago`, summary.databaseLatency ? `a save takes ${Math.max(1, Math.round(millis(summary.databaseLatency)))} ms` : null, millis(summary.flushLag) ? `saving beats is ${age(millis(summary.flushLag))} late` : "beats are saved"], severity("database_away", "database_slow", "changes_blocked", "beats_not_saved")],
    ["epoch", "Epoch", cluster ? `no. ${cluster.epochNumber}` : "…", [epochAge, cluster?.epochReason, cluster ? `revision ${count(cluster.revision)}` : null], ""],
  ];
}

function daemon() {
  const [badge, where, lines] = [h("span", { class: "badge" }), h("strong"), h("span", { class: "note" })];
  const element = h("li", null, badge, where, lines);
  element.update = (it) => {
    badge.dataset.state = it.state;
    write(badge, it.state);
    write(where, it.address);
    const [since, what] = it.state === "lost" ? [it.lostFor, "evicted"] : [it.lastFlushAge, "saved"];
    const about = it.answering ? `this one, ${it.version}` : it.version;
    tick(lines, millis(since), (ms) => write(lines, `${about}, ${what} ${age(ms)} ago`));
  };
  return element;
}

function change(it) {
  const id = it.logicalId;
  const [what, detail, when] = [h("span", { class: "badge", "data-state": it.what }, it.what), h("span", { class: "note" }), h("span", { class: "when" })];
  const subject = id === undefined ? h("strong", null, `epoch no. ${it.epochNumber}`)
    : h("button", { type: "button", class: "name", click: () => (page.isOpen(id) || page.toggle(id), find(id)) }, h("bdi", null, id));
  const element = h("li", null, what, subject, when, detail);
  element.update = (it) => {
    const by = it.death ? reason(it.death) : it.reason || (it.instanceId ?? it.by);
    write(detail, by ?? "");
    if (it.at) tick(when, since(it.at, summary.now), (ms) => write(when, `${age(ms)} ago`));
    else write(when, `rev. ${it.revision}`);
  };
  return element;
}

/** Shows one name alone. */
function find(id) {
  $("text").value = chosen.text = id;
  chosen.state = "";
  remember();
  askNames();
}

function showSummary() {
  showVerdict();
  sync($("facts"), facts(), ([key]) => key, fact);
  sync($("daemons"), summary.daemons, (it) => it.daemonId + it.state, daemon);
  sync($("latest"), summary.latest, (it) => `${it.revision} ${it.instanceId}`, change);
  sync($("states"), [["", "all", totalOf("")], ...Object.entries(STATES).map(([state, text]) => [state, text, summary.names[state]])], ([state]) => state, ([state, text]) => {
    const number = h("span", { class: "number" });
    const button = h("button", { type: "button", "data-state": state, click: () => { chosen.state = chosen.state === state ? "" : state; remember(); showSummary(); askNames(); } }, `${text} `, number);
    button.update = ([, , total]) => {
      write(number, count(total));
      button.setAttribute("aria-pressed", String(chosen.state === state));
      button.hidden = !total && chosen.state !== state && state !== "";
    };
    return button;
  });
  const filtered = chosen.text ? `list --all-statuses | grep -F -- ${quote(chosen.text)}` : "list --all-statuses";
  const first = "run --logical-id my_service --port 8000 -- sleep 600";
  for (const [place, words] of [["names-command", filtered], ["latest-command", "watch"], ["daemons-command", "status"], ["empty-command", first]]) {
    if (!$(place).firstChild) $(place).append(command(""));
    $(place).firstChild.update(page.cli(words));
  }
  write($("about"), `musterd ${summary.version} at ${summary.grpcAddress}, ${summary.ports.summary}. Counts from ${age(millis(summary.statsAge))} ago.`);
}

/** Shows what was found. While a search goes on, more may follow at once, and "none" would be too early to say. */
function showNames(answer, goesOn) {
  if (answer.error) return showEmpty(answer.error.message);
  sync($("names").querySelector("table"), [null, ...answer.names], (row) => (row ? `name ${row.logicalId}` : "head"), (row) => name(row, page));
  const shown = count(answer.names.length);
  const total = summary && !chosen.text ? totalOf(chosen.state) : null;
  const of = answer.next && total !== null ? `${shown} of ${count(total)}` : shown;
  const is = chosen.text ? (answer.next ? "the first that match" : "all that match") : "the worst first";
  write($("names-note"), goesOn ? `searching; ${shown} so far` : `${of}, ${is}`);
  const isAtLimit = chosen.limit >= ROWS_MAX;
  $("more").hidden = goesOn || !answer.next || isAtLimit;
  $("rest").hidden = goesOn || !answer.next || !isAtLimit;
  const part = total === null ? `The first ${shown} that match are shown.` : `${of} are shown.`;
  write($("rest"), `${part} To see others, search for a name, a node, an address or an instance id, or choose a state; the command above lists all.`);
  const isFiltered = chosen.text || chosen.state;
  const nothing = isFiltered ? `No ${chosen.text ? "logical id, node, address or instance id" : "logical id"} matches.` : "No instance has registered yet. Try:";
  showEmpty(answer.names.length || goesOn ? "" : nothing);
  $("empty-command").hidden = Boolean(isFiltered);
}

function totalOf(state) {
  return Object.entries(summary.names).reduce((sum, [key, number]) => sum + (!state || key === state ? number : 0), 0);
}

/** Shows the instances of the names that are open, and goes to the one that a link leads to. */
function showOpen(open, answers) {
  const bodies = new Map([...$("names").querySelectorAll("tbody")].map((body) => [body.dataset.key, body]));
  open.forEach((id, at) => {
    const body = bodies.get(`name ${id}`);
    body?.explain(answers[at]);
    if (!body || id !== sought) return;
    sought = null;
    body.scrollIntoView({ block: "center" });
  });
}

/** Says which of the names that a link asks for are not on record. */
function showUnknown(ids) {
  if (ids.includes(sought)) sought = null;
  sync($("unknown"), ids, (id) => id, (id) => h("li", { class: "banner" }, h("span", null, "No instance of ", h("bdi", null, id), " is on record."), h("button", { type: "button", click: () => page.toggle(id) }, "Dismiss")));
}

function showEmpty(text) {
  write($("empty-text"), text);
  $("empty").hidden = !text;
}

// ---- Wiring ----

$("pause").addEventListener("click", () => {
  paused = !paused;
  freeze(paused);
  $("pause").setAttribute("aria-pressed", String(paused));
  write($("pause"), paused ? "Resume" : "Pause");
  if (paused) summaries.stop();
  else summaries.start();
});
$("filter").addEventListener("submit", (event) => event.preventDefault());
$("text").addEventListener("input", () => {
  chosen.text = $("text").value;
  chosen.limit = ROWS;
  remember();
  askNames();
});
$("more").addEventListener("click", () => {
  chosen.limit = ROWS_MAX;
  askNames();
});
addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.target.matches("input") || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  $("text").focus();
});
addEventListener("popstate", () => (recall(), askNames()));
// What is not seen is not asked for; the time in between counts as no instance's silence.
document.addEventListener("visibilitychange", () => (heard = performance.now()));

setInterval(() => {
  const silent = performance.now() - heard;
  const lost = !paused && !document.hidden && silent > SILENT_MS;
  const live = paused ? "paused" : lost ? "lost" : summary ? "live" : "connecting";
  $("live").dataset.live = document.body.dataset.live = live;
  write($("live"), live);
  $("lost").hidden = !lost;
  if (lost) {
    const since = summary ? ` What you see is as of ${summary.now.slice(11, 19)} UTC.` : "";
    write($("lost"), `No answer from this daemon for ${age(silent)}.${since} It connects again by itself.`);
  }
}, 500);

recall();
summaries.start();
