// Runs that are already computed, shown side by side as if they went on now.

import { still } from "./element";
import type { State, Work } from "./scene";

export interface Race {
  began: number;
  step: number;
}

/** Work that counts steps: about one a second at first, then ever more, so that the fast and the slow both are seen. */
export function race<S extends State>(label: string, steps: number): Work<S, Race> {
  return {
    label,
    key: (state) => JSON.stringify(state),
    start: () => ({ began: performance.now(), step: still() ? steps : 0 }),
    advance: (race) => {
      race.step = Math.max(race.step, Math.floor(Math.expm1((performance.now() - race.began) / 1300)));
      return race.step < steps && "shown";
    },
  };
}
