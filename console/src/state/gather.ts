/** Gather what a stream sends and hand it on once a frame, however much it is. */

export type Schedule = (run: () => void) => void;

/** The next frame that the browser draws. */
export const nextFrame: Schedule = (run) => {
  requestAnimationFrame(run);
};

export class Gather<Item> {
  private items: Item[] = [];
  private scheduled = false;
  private readonly take: (items: readonly Item[]) => void;
  private readonly schedule: Schedule;

  constructor(take: (items: readonly Item[]) => void, schedule: Schedule = nextFrame) {
    this.take = take;
    this.schedule = schedule;
  }

  push(item: Item): void {
    this.items.push(item);
    if (this.scheduled) return;
    this.scheduled = true;
    this.schedule(() => this.flush());
  }

  /** Hand on what has come so far, such as at the end of the stream. */
  flush(): void {
    this.scheduled = false;
    if (this.items.length === 0) return;
    const items = this.items;
    this.items = [];
    this.take(items);
  }
}

/** Let the browser draw and answer between two pieces of work that take long. */
export const breathe = (): Promise<void> => new Promise((go) => setTimeout(go));
