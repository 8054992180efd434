/** The variables with which Ansible reaches Windows hosts, as options of WinRM. */
import { ownOf, type Variables } from "./found.ts";

export const CONNECTIONS: ReadonlySet<string> = new Set(["winrm", "psrp"]);
/** The variables that are taken over. */
export const WINDOWS_VARIABLES: readonly string[] = [
  ...["ansible_winrm_scheme", "ansible_winrm_transport", "ansible_winrm_server_cert_validation"],
  ...["ansible_psrp_protocol", "ansible_psrp_auth", "ansible_psrp_cert_validation"],
];

const HTTP_PORT = 5985;
const AUTH: Readonly<Record<string, string>> = {
  ...{ negotiate: "negotiate", ntlm: "ntlm", kerberos: "kerberos", credssp: "credssp" },
  ...{ certificate: "certificate", basic: "basic", plaintext: "basic", ssl: "basic" },
};

/**
 * Return the field `winrm` of a host.
 *
 * Without a scheme, port 5985 means http, as in Ansible. Throws an Error for what opsjobs does not do.
 */
export function readWinrm(variables: Variables, port: number | undefined): Record<string, unknown> {
  const named = firstOf(variables, "ansible_winrm_scheme", "ansible_psrp_protocol");
  const scheme = (named ?? (port === HTTP_PORT ? "http" : "https")).toLowerCase();
  const options: Record<string, unknown> = { scheme };
  const asked = firstOf(variables, "ansible_winrm_transport", "ansible_psrp_auth");
  if (asked !== undefined) {
    const auth = authOf(asked);
    options["auth"] = auth;
    if ((auth === "basic" || auth === "certificate") && scheme === "http")
      throw new Error(`its authentication is ${auth} over http: use https, or ntlm over http`);
  }
  const check = firstOf(
    variables,
    "ansible_winrm_server_cert_validation",
    "ansible_psrp_cert_validation",
  );
  if (check === "ignore" && scheme === "https") options["verify"] = false;
  return options;
}

/** Return the first supported one of the authentications that are listed. */
function authOf(asked: string): string {
  const names = asked.split(",").map((name) => name.replace(/^[ [\]'"]+|[ [\]'"]+$/g, ""));
  const known = names.map((name) => ownOf(AUTH, name.toLowerCase())).find(Boolean);
  if (known) return known;
  throw new Error(
    `its WinRM authentication is ${names.join(", ").toLowerCase()}: only negotiate, ntlm, ` +
      "kerberos, credssp, basic and certificate are supported",
  );
}

export function firstOf(variables: Variables, ...names: string[]): string | undefined {
  return names.map((name) => variables[name]).find((value) => value);
}
