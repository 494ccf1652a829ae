// The table of logical ids: a body per name, so that a name and what is open under it stay together.

import { age, command, count, h, millis, quote, sync, tick, write } from "./dom.js";
import { get } from "./search.js";

export const STATES = {
  unserved: "no live instance",
  all_suspect: "all suspect",
  some_suspect: "some suspect",
  lost_lately: "lost one lately",
  served: "served",
  left: "left",
};

const DEATHS = {
  stale: "no beat within its TTL",
  old_epoch: "the epoch was rotated",
  deregistered: "deregistered by its owner",
  replaced: "replaced by a new registration",
  operator: "declared dead by an operator",
  unspecified: "reason not on record",
};

/** What a search found of an instance, by the field it stands in. */
const FOUND = { nodeId: "instance on", ipAddress: "instance at", instanceId: "instance" };

/** The word of an enum of the protocol. */
export function word(name) {
  return name.replace(/^(INSTANCE_STATUS|DEATH_REASON|BRAKE_MODE)_/, "").toLowerCase();
}

/** Why it died. */
export function reason(death) {
  const name = word(death.reason);
  return DEATHS[name] ?? name;
}

/** How long ago a time was, by the clock of the database. */
export function since(time, now) {
  return Date.parse(now) - Date.parse(time);
}

/** Where an instance is reached; an IPv6 address in brackets. */
export function address(instance) {
  if (!instance.ipAddress) return "no address";
  const host = instance.ipAddress.includes(":") ? `[${instance.ipAddress}]` : instance.ipAddress;
  return instance.port ? `${host}:${instance.port}` : host;
}

/** The age of the last beat beside the TTL, ticking. `silentFor` is that age, which outlasts the lease. */
function beat() {
  const bar = h("span", { class: "bar", "aria-hidden": "true" }, h("span"));
  const text = h("span", { class: "number" });
  const element = h("span", { class: "beat" }, bar, text);
  element.update = ({ ttl: lease, silentFor }) => {
    const ttl = millis(lease);
    tick(element, millis(silentFor), (ms) => {
      const share = Math.min(ms / ttl, 1);
      bar.firstChild.style.inlineSize = `${share * 100}%`;
      // A beat is due after a third of the TTL, and two of them are overdue after two thirds.
      bar.dataset.late = share > 2 / 3 ? "very" : share > 0.45 ? "yes" : "no";
      write(text, ms >= ttl ? `${age(ms)}, over its ${age(ttl).replace(".0", "")}` : `${age(ms)} of ${age(ttl).replace(".0", "")}`);
    });
  };
  return element;
}

function counts(row) {
  const parts = [
    row.alive && `${count(row.alive)} alive${row.suspect ? ` (${count(row.suspect)} suspect)` : ""}`,
    row.starting && `${count(row.starting)} starting`,
    row.draining && `${count(row.draining)} draining`,
    row.dead && `${count(row.dead)} dead`,
  ];
  return parts.filter(Boolean).join(", ");
}

/** One name: a row, and, while it is open, a row with its instances. `toggle(name)` opens and closes it. */
export function name(row, page) {
  const id = row.logicalId;
  const toggle = h("button", { type: "button", class: "name", "aria-expanded": "false", click: () => page.toggle(id) }, h("bdi", null, id));
  const badge = h("span", { class: "badge" });
  const found = h("span", { class: "found note" });
  const instances = h("td", { class: "counts" });
  const [where, node] = [h("span", { class: "address" }), h("span", { class: "node" })];
  const best = h("td", { class: "best" }, where, node);
  const heard = h("td", { class: "heard" });
  const bar = beat();
  const died = h("span");
  const element = h("tbody", null, h("tr", null, h("th", { scope: "row" }, toggle, found), h("td", { class: "state" }, badge), instances, best, heard));
  let detail = null;
  element.update = (row) => {
    element.dataset.state = row.state;
    badge.dataset.state = row.state;
    write(badge, STATES[row.state] ?? row.state);
    write(instances, counts(row));
    write(where, row.best ? address(row.best) : "no instance");
    write(node, row.best?.nodeId ? ` on ${row.best.nodeId}` : "");
    best.title = best.textContent;
    write(found, row.found ? `${FOUND[row.found.field]} ${row.found.value}` : "");
    found.hidden = !row.found;
    element.toggleAttribute("data-marked", page.isMarked(id));
    if (row.best) {
      if (heard.firstChild !== bar) heard.replaceChildren(bar);
      bar.update(row.best);
    } else if (row.lastDeath) {
      if (heard.firstChild !== died) heard.replaceChildren(died);
      const why = reason(row.lastDeath);
      if (!row.lastDeath.at) write(died, `died: ${why}`);
      else tick(died, since(row.lastDeath.at, page.now()), (ms) => write(died, `died ${age(ms)} ago: ${why}`));
    } else heard.replaceChildren();
    const open = page.isOpen(id);
    toggle.setAttribute("aria-expanded", String(open));
    if (open && !detail) {
      detail = explained(id, page);
      element.append(h("tr", { class: "detail" }, h("td", { colspan: "5" }, detail)));
    } else if (!open && detail) {
      detail.closest("tr").remove();
      detail = null;
    }
  };
  element.explain = (answer) => detail?.update(answer);
  return element;
}

/** Every instance of a name by rank, each with the reason why it is or is not resolved. */
function explained(id, page) {
  const note = h("p", { class: "note" }, "Asking…");
  const list = h("ol", { class: "instances" });
  const target = /^-/.test(id) ? `-- ${quote(id)}` : quote(id);
  const commands = h("p", { class: "commands" }, ["explain", "watch"].map((verb) => command(page.cli(`${verb} ${target}`))));
  const element = h("div", null, h("h3", null, "Which instance is resolved, and why"), note, list, ended(id, page), commands);
  element.update = (answer) => {
    if (answer.error) {
      write(note, answer.error.message);
      return list.replaceChildren();
    }
    const shown = answer.candidates.length;
    write(note, answer.complete ? "" : `${count(shown)} of ${count(answer.instances)} instances, the best first.`);
    note.hidden = answer.complete;
    sync(list, answer.candidates, (it) => it.instance.instanceId, (it) => instance(it, page));
  };
  return element;
}

/** How many ended leases of a name are shown. */
const ENDED_MAX = 20;

/** The leases of a name that have ended: read from PostgreSQL, so only when they are opened, and not again by themselves. */
function ended(id, page) {
  const note = h("p", { class: "note" });
  const list = h("ol", { class: "ended" });
  const element = h("details", null, h("summary", null, "Ended leases"), note, list);
  element.addEventListener("toggle", async () => {
    if (!element.open) return;
    const answer = await get("ended", { name: id, limit: ENDED_MAX }).catch((error) => ({ error, leases: [] }));
    const found = answer.leases?.length ?? 0;
    const told = found === ENDED_MAX ? `The latest ${ENDED_MAX}.` : found ? "" : "None is on record.";
    write(note, answer.error ? answer.error.message : told);
    note.hidden = !note.textContent;
    sync(list, answer.leases ?? [], (it) => it.leaseId, (it) => endedLease(it, page));
  });
  return element;
}

function endedLease(lease, page) {
  const life = h("span");
  tick(life, since(lease.death.at, page.now()), (ms) => write(life, `ended ${age(ms)} ago: ${reason(lease.death)}`));
  const parts = [
    ["lease", lease.leaseId], ["instance", lease.instanceId], ["node", lease.nodeId], ["actor", lease.actorName], ["owner", lease.owner],
    ["epoch", lease.epochNumber], ["started", lease.startedAt], ["ended", lease.death.at], ["decided by", lease.death.decidedBy],
  ];
  return h("li", null, life, h("p", { class: "facts" }, facts(parts)));
}

/** Keys and values, without those that are empty. */
function facts(parts) {
  return parts.filter(([, value]) => value).map(([key, value]) => h("span", null, `${key} `, h("code", null, h("bdi", null, value))));
}

function instance(candidate, page) {
  const rank = h("span", { class: "rank" });
  const badge = h("span", { class: "badge" });
  const where = h("strong");
  const bar = beat();
  const why = h("p", { class: "why" });
  const known = h("p", { class: "facts" });
  const labels = h("ul", { class: "labels", "aria-label": "Labels" });
  const life = h("span");
  const element = h("li", null, h("div", { class: "line" }, rank, badge, where, life), why, known, labels);
  let shown = "";
  element.update = ({ rank: place, standing, why: text, silentFor, instance: it }) => {
    const status = word(it.status);
    element.dataset.standing = standing;
    write(rank, place ? `${place}.` : "–");
    badge.dataset.state = it.suspect ? "suspect" : status;
    write(badge, it.suspect ? `${status}, suspect` : status);
    write(where, address(it));
    write(why, text);
    if (it.death) {
      if (it.death.at) tick(life, since(it.death.at, page.now()), (ms) => write(life, `died ${age(ms)} ago`));
      else write(life, "died");
    } else {
      if (life.firstChild !== bar) life.replaceChildren(bar);
      bar.update({ ttl: it.ttl, silentFor });
    }
    const fixed = JSON.stringify([it.leaseId, it.labels, it.death, it.revision]);
    if (fixed === shown) return;
    shown = fixed;
    const parts = [
      ["instance", it.instanceId], ["lease", it.leaseId], ["epoch", it.epochNumber], ["node", it.nodeId], ["pid", it.pid === "0" ? "" : it.pid],
      ["route", it.serveRoute], ["actor", it.actorName], ["version", it.version], ["owner", it.owner], ["started", it.startedAt],
      ["reason", it.statusReason], ["since", it.statusSince],
      ["deadline was", it.death?.deadline], ["decided by", it.death?.decidedBy],
    ];
    known.replaceChildren(...facts(parts));
    labels.replaceChildren(...Object.entries(it.labels).map(([key, value]) => h("li", null, h("bdi", null, key), "=", h("bdi", null, value))));
  };
  return element;
}
