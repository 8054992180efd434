/** Runs before anything is drawn: the chosen theme and density, so that nothing flashes. */
import { applyTaste, readTaste } from "./state/taste-store.ts";

applyTaste(readTaste());
