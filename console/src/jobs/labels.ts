/** The labels of a job, which scopes are compared with. */
import type { Job, ListedJob } from "../api/types.ts";

/** Its tags: `env=prod` has a value, `web` has none. */
export function labelsOf({ tags }: Pick<Job | ListedJob, "tags">): Record<string, string> {
  return Object.fromEntries(
    tags.map((tag) => {
      const [key = "", ...value] = tag.split("=");
      return [key, value.join("=")];
    }),
  );
}
