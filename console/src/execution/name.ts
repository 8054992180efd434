/** The name of an execution: that of its job, or what it runs if it has none. */

export interface Named {
  job_name: string;
  /** What an ad-hoc execution runs, in a line. */
  summary: string | null;
}

interface AskedFor {
  kind: string;
  message: string;
  execution_id: number;
}

/** `patch-web`, or `systemctl restart nginx` without a job. */
export const titleOf = ({ job_name, summary }: Named): string => summary ?? job_name;

/** What an approval is asked for: the launch of an execution, or what its action asks. */
export function askedFor(approval: Named & AskedFor): string {
  const { kind, message, execution_id } = approval;
  const name = nameOf({ ...approval, id: execution_id });
  return kind === "launch" || !message ? name : message;
}

/** `patch-web #17`: the id, as in the URL and in the command line. */
export const nameOf = (execution: Named & { id: number }): string =>
  `${titleOf(execution)} #${execution.id}`;
