// Asks for the summary, once a second while the page is visible.
//
// There is a stream of summaries too, and the page does without it. A browser opens six connections to a host, for all of
// its tabs together; a stream holds one for as long as its tab is open, so that the seventh tab would never load, and no
// other request to this host would go through. A question holds its connection for as long as the answer takes.

const PERIOD = 1000;
// A tab that is not seen asks for its title's sake.
const PERIOD_HIDDEN = 15000;
const PATIENCE = 5000;

/** Calls `receive(summary)` for each summary; returns what starts and stops it. */
export function watch(receive) {
  let timer = null;
  let asking = false;
  let stopped = true;

  async function ask() {
    clearTimeout(timer);
    if (asking || stopped) return;
    asking = true;
    const began = performance.now();
    const summary = await get();
    asking = false;
    if (stopped) return;
    const period = document.hidden ? PERIOD_HIDDEN : PERIOD;
    timer = setTimeout(ask, Math.max(period - (performance.now() - began), PERIOD / 5));
    if (summary) receive(summary);
  }

  document.addEventListener("visibilitychange", () => document.hidden || ask());
  return {
    start() {
      stopped = false;
      ask();
    },
    stop() {
      stopped = true;
      clearTimeout(timer);
    },
  };
}

/** The summary, or null if there is none; the page tells how long it has been without one. */
async function get() {
  try {
    const answer = await fetch("/api/v1/summary", { signal: AbortSignal.timeout(PATIENCE) });
    return answer.ok ? await answer.json() : null;
  } catch (error) {
    console.info(error.message);
    return null;
  }
}
