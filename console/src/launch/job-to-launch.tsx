/** Jobs to launch: each has a form of its own. */
import { JobChoice } from "../jobs/choice.tsx";
import { Empty } from "../parts/empty.tsx";
import { Text } from "../parts/text.tsx";
import { Link, query, setQuery } from "../router.tsx";
import "../style/launch.css";

export function JobToLaunch() {
  return (
    <div class="stack">
      <JobChoice
        label="Find a job"
        list="Jobs to launch"
        most={20}
        permission="jobs:execute"
        typed={query.value.get("q") ?? ""}
        onType={(q) => setQuery({ q })}
        none={<Empty why="There are no jobs yet that you may launch." />}
      >
        {(job) => (
          <Link to={`/jobs/${job.id}/launch`}>
            <b>
              <Text of={job.name} />
            </b>
          </Link>
        )}
      </JobChoice>
    </div>
  );
}
