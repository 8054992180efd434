/** A new target, or a changed one. */
import { useState } from "preact/hooks";
import { ask } from "../api/ask.ts";
import type { CredentialPage, ShownTarget } from "../api/types.ts";
import { NewCredential } from "../credentials/forms.tsx";
import { Dialog } from "../parts/dialog.tsx";
import { Field, Form, faultOf, Select, TextField } from "../parts/form.tsx";
import { ListField, TargetField, useLabelsAndGroups } from "../parts/picker.tsx";
import { toast } from "../parts/toast.tsx";
import { type Resource, useResource } from "../state/resource.ts";
import { askIf, mayDoEverywhere } from "../state/rights.ts";
import { draftOf, fieldsOf, NEW_TARGET, type TargetFields } from "./draft.ts";
import "../style/forms.css";

interface TargetFormProps {
  /** Null: a new one. */
  target: ShownTarget | null;
  onDone: (target: { name: string }) => void;
  onClose: () => void;
}

export function TargetForm({ target, onDone, onClose }: TargetFormProps) {
  // As it was when the form opened.
  const [stored] = useState(target);
  const [fields, setFields] = useState(stored ? fieldsOf(stored) : NEW_TARGET);
  const [adding, setAdding] = useState(false);
  const logins = useLogins();
  const change = (some: Partial<TargetFields>) => setFields({ ...fields, ...some });
  const save = async () => {
    const body = draftOf(fields, stored);
    if (stored) await ask("PUT /targets/{id}", { path: { id: stored.id }, body });
    else await ask("POST /targets", { body });
    toast(`${body.name} was ${stored ? "changed" : "added"}`);
    onDone(body);
  };
  // Over the form, not in it: a form has no other one inside.
  const credential = adding && (
    <NewCredential
      forLogins
      onDone={async ({ name }) => {
        await logins.reload();
        change({ credential: name });
      }}
      onClose={() => setAdding(false)}
    />
  );
  const form = (
    <Dialog title={stored ? `Change ${stored.name}` : "New target"} wide onClose={onClose}>
      <Form verb={stored ? "Save" : "Add"} onSubmit={save} onCancel={onClose}>
        {(error) => {
          const part = {
            fields,
            onChange: change,
            fault: (name: string) => faultOf(error, `/${name}`),
          };
          return (
            <>
              <Where {...part} />
              <Login {...part} logins={logins} onAdd={() => setAdding(true)} />
              {fields.transport === "winrm" ? <Winrm {...part} /> : <Ssh {...part} />}
              <Labels {...part} />
              <Work {...part} />
            </>
          );
        }}
      </Form>
    </Dialog>
  );
  return (
    <>
      {form}
      {credential}
    </>
  );
}

type Logins = Resource<CredentialPage | null>;

/** The credentials that targets can have, as far as the person may use them. */
function useLogins(): Logins {
  return useResource(
    (signal) =>
      askIf(mayDoEverywhere("credentials:use"), () =>
        ask("GET /credentials", { query: { limit: 200 }, signal }),
      ),
    [],
  );
}

interface PartProps {
  fields: TargetFields;
  onChange: (some: Partial<TargetFields>) => void;
  /** What the server said about a field of the draft. */
  fault: (name: string) => string | null;
}

const TRANSPORTS = { ssh: "SSH", winrm: "WinRM (Windows)", local: "this machine" } as const;

function Where({ fields, onChange, fault }: PartProps) {
  return (
    <>
      <div class="pair">
        <TextField
          label="Name"
          hint="Such as web-1"
          required
          value={fields.name}
          onChange={(name) => onChange({ name })}
          fault={fault("name")}
        />
        <Field label="Reached by" fault={fault("transport")}>
          <Select
            of={TRANSPORTS}
            value={fields.transport}
            onChange={(transport) => onChange({ transport, port: "" })}
          />
        </Field>
      </div>
      <div class="pair">
        <TextField
          label="Host"
          hint="A name or an address"
          mono
          required
          value={fields.host}
          onChange={(host) => onChange({ host })}
          fault={fault("host")}
        />
        <TextField
          label="Port"
          hint={`Empty: ${fields.transport === "ssh" ? 22 : fields.scheme === "https" ? 5986 : 5985}`}
          value={fields.port}
          onChange={(port) => onChange({ port })}
          fault={fault("port")}
        />
      </div>
    </>
  );
}

interface LoginProps extends PartProps {
  logins: Logins;
  /** Make a credential. */
  onAdd: () => void;
}

function Login({ fields, onChange, fault, logins, onAdd }: LoginProps) {
  const may = mayDoEverywhere("credentials:use");
  const names = (logins.data.value?.items ?? [])
    .filter((one) => one.type !== "secret")
    .map((one) => one.name);
  const all = [...new Set([...names, ...(fields.credential ? [fields.credential] : [])])];
  return (
    <div class="beside">
      <Field
        label="Logs in with"
        hint={
          may ? "A credential: a user with a key or a password" : "You may not use credentials."
        }
        fault={fault("credential")}
      >
        <Select
          of={{ "": "nothing yet", ...Object.fromEntries(all.map((name) => [name, name])) }}
          value={fields.credential}
          onChange={(credential) => onChange({ credential })}
        />
      </Field>
      {mayDoEverywhere("credentials:manage") && (
        <button type="button" class="button" onClick={onAdd}>
          New credential …
        </button>
      )}
    </div>
  );
}

const PLATFORMS = {
  linux: "Linux",
  macos: "macOS",
  bsd: "BSD",
  network: "network device",
  windows: "Windows",
} as const;
const KEY_POLICIES = {
  pinned: "a person has compared it",
  ca: "a trusted CA has signed it",
  accept_new: "it is the first one seen",
  unchecked: "always (unsafe)",
} as const;

function Ssh({ fields, onChange, fault }: PartProps) {
  return (
    <>
      <div class="pair">
        <Field label="Platform" fault={fault("platform")}>
          <Select
            of={PLATFORMS}
            value={fields.platform}
            onChange={(platform) => onChange({ platform })}
          />
        </Field>
        <Field label="Its host key is trusted if" fault={fault("host_key_policy")}>
          <Select
            of={KEY_POLICIES}
            value={fields.hostKeyPolicy}
            onChange={(hostKeyPolicy) => onChange({ hostKeyPolicy })}
          />
        </Field>
      </div>
      <TargetField
        label="Jump host"
        hint="A target through which it is reached; empty: none"
        text={fields.jump}
        fault={fault("jump")}
        onInput={(jump) => onChange({ jump })}
      />
    </>
  );
}

const AUTHS = ["negotiate", "ntlm", "kerberos", "credssp", "basic", "certificate"] as const;

const SCHEMES = { https: "https", http: "http, messages encrypted" } as const;
const ENGINES = {
  winrs: "winrs (survives broken connections)",
  psrp: "PowerShell remoting",
} as const;
const DURABILITIES = {
  auto: "if the target can",
  required: "always, or they are refused",
  off: "no",
} as const;

function Winrm({ fields, onChange, fault }: PartProps) {
  return (
    <>
      <div class="pair">
        <Field label="Scheme" fault={fault("winrm/scheme") ?? fault("winrm")}>
          <Select
            of={SCHEMES}
            value={fields.scheme}
            onChange={(scheme) => onChange({ scheme, port: "" })}
          />
        </Field>
        <Field label="Login by" fault={fault("winrm/auth")}>
          <Select
            of={Object.fromEntries(AUTHS.map((auth) => [auth, auth]))}
            value={fields.auth}
            onChange={(auth) => onChange({ auth })}
          />
        </Field>
      </div>
      {fields.scheme === "https" && (
        <>
          <TextField
            label="Fingerprint of its certificate (SHA-256)"
            hint="Empty: the CA decides. The target's page shows the fingerprint that it has now."
            mono
            value={fields.fingerprint}
            onChange={(fingerprint) => onChange({ fingerprint })}
            fault={fault("winrm/fingerprint")}
          />
          <Field
            label="Certificates of the CA, as PEM"
            hint="Empty: those of the system"
            fault={fault("winrm/ca")}
          >
            <textarea
              class="input"
              rows={3}
              spellcheck={false}
              value={fields.ca}
              onInput={(event) => onChange({ ca: event.currentTarget.value })}
            />
          </Field>
        </>
      )}
      <Field label="Runs commands with" fault={fault("winrm/engine")}>
        <Select of={ENGINES} value={fields.engine} onChange={(engine) => onChange({ engine })} />
      </Field>
    </>
  );
}

function Labels({ fields, onChange, fault }: PartProps) {
  const { conditions, groupNames } = useLabelsAndGroups();
  return (
    <>
      <ListField
        label="Labels"
        hint="Such as env=prod, role=web"
        text={fields.labels}
        options={conditions}
        fault={fault("labels")}
        onInput={(text) => onChange({ labels: text })}
      />
      <ListField
        label="Groups"
        hint="Separated by commas; a new group is created"
        text={fields.groups}
        options={groupNames}
        fault={fault("groups")}
        onInput={(text) => onChange({ groups: text })}
      />
    </>
  );
}

function Work({ fields, onChange, fault }: PartProps) {
  return (
    <details>
      <summary>Zone, runs at a time, durability</summary>
      <div class="form">
        <TextField
          label="Zone"
          hint="Whose workers reach it"
          value={fields.zone}
          onChange={(zone) => onChange({ zone })}
          fault={fault("zone")}
        />
        <TextField
          label="Runs at a time"
          value={fields.slots}
          onChange={(slots) => onChange({ slots })}
          fault={fault("slots")}
        />
        <Field label="Commands survive a broken connection" fault={fault("durable")}>
          <Select
            of={DURABILITIES}
            value={fields.durable}
            onChange={(durable) => onChange({ durable })}
          />
        </Field>
      </div>
    </details>
  );
}
