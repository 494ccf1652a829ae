// Asks for the names on show: a search, followed page by page to its end; those that are open, wherever they stand; and
// the instances of these.

/** Asks the API; the answer may be an error in its own form. */
export async function get(path, params, signal) {
  const answer = await fetch(`/api/v1/${path}?${new URLSearchParams(params)}`, { signal });
  return answer.json();
}

/**
 * As many rows as are wanted of what is chosen. The daemon looks at a bounded number of names for one answer, so an answer
 * may hold few rows, or none, and not be the last one: only an answer without `next` says that there is no more.
 * `progress(answer)` is called with what has been found so far, before there is more to ask for.
 */
export async function search(chosen, signal, progress) {
  const rows = new Map();
  let next = "";
  do {
    const params = { limit: chosen.limit - rows.size };
    if (chosen.text) params.search = chosen.text;
    if (chosen.state) params.state = chosen.state;
    if (next) params.after = next;
    const answer = await get("names", params, signal);
    if (answer.error) return answer;
    // Between two answers a name may have changed its place.
    for (const row of answer.names) if (!rows.has(row.logicalId)) rows.set(row.logicalId, row);
    next = answer.next;
    if (next && rows.size < chosen.limit) progress({ names: [...rows.values()], next });
  } while (next && rows.size < chosen.limit);
  return { names: [...rows.values()], next };
}

/** The rows of the open names that are on record and not among those listed. */
export async function missing(open, listed, signal) {
  const shown = new Set(listed.map((row) => row.logicalId));
  const absent = open.filter((id) => !shown.has(id));
  if (!absent.length) return [];
  const answer = await get("names", absent.map((id) => ["name", id]), signal);
  return answer.names ?? [];
}
