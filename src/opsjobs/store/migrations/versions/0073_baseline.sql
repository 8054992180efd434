-- Time. Processes compare leases, deadlines and not_before with opsjobs_now(). Only tests set the
-- shift.
create table opsjobs_clock (
  one boolean primary key default true check (one),
  shift interval not null default '0'
);
insert into opsjobs_clock default values;
create function opsjobs_now() returns timestamptz language sql volatile as
  $$ select clock_timestamp() + (select shift from opsjobs_clock) $$;


-- Identities. A name and its kind are one identity.

-- grants: [{role, permissions, scope}].
create table users (
  id bigint generated always as identity primary key,
  uuid uuid not null unique,
  name text not null unique,
  password_hash text not null,
  grants jsonb not null check (jsonb_typeof(grants) = 'array'),
  disabled_at timestamptz,
  created_at timestamptz not null default opsjobs_now(),
  updated_at timestamptz not null default opsjobs_now(),
  last_login_at timestamptz
);

-- A login. It belongs to a user; to an API key, by the hash of the key's token (it ends with the
-- key, and with a change of its token); or to a person of an OpenID Connect provider (issuer,
-- subject). One with cookie_sha256 is of a browser: the cookie is its only proof.
-- confirmed_at: when the caller last proved who it is by more than the cookie. external_name: the
-- person's name here. roles, grants, issued_at: what the claims of the person's last login gave.
-- logout_url: the provider's own logout, if it has one.
create table sessions (
  id uuid primary key,
  user_id bigint references users on delete cascade,
  key_sha256 bytea check (length(key_sha256) = 32),
  cookie_sha256 bytea unique check (length(cookie_sha256) = 32),
  created_at timestamptz not null default opsjobs_now(),
  last_used_at timestamptz not null default opsjobs_now(),
  confirmed_at timestamptz not null default opsjobs_now(),
  expires_at timestamptz not null,
  ended_at timestamptz,
  because text,
  address text,
  agent text,
  issuer text,
  subject text,
  external_name text,
  display_name text,
  email text,
  roles text[],
  grants jsonb check (jsonb_typeof(grants) = 'array'),
  issued_at double precision,
  logout_url text,
  constraint sessions_owner check (num_nonnulls(user_id, key_sha256, subject) = 1),
  constraint sessions_proof check (cookie_sha256 is not null or user_id is not null),
  constraint sessions_person check (
    num_nulls(issuer, subject, external_name, roles, grants) in (0, 5))
);
create index sessions_user on sessions (user_id, created_at);
create index sessions_key on sessions (key_sha256, created_at) where key_sha256 is not null;
create index sessions_external on sessions (external_name, created_at)
  where external_name is not null;
create index sessions_person on sessions (issuer, subject) where subject is not null;
create index sessions_end on sessions (coalesce(ended_at, expires_at));

-- The refresh tokens of logins with tokens. Each is valid once; the second use of one ends the
-- session.
create table refresh_tokens (
  token_sha256 bytea primary key check (length(token_sha256) = 32),
  session_id uuid not null references sessions on delete cascade,
  used_at timestamptz
);
create index refresh_tokens_session on refresh_tokens (session_id);

-- Codes that begin one session each, for the user or the API key that asked for it.
create table login_codes (
  code_sha256 bytea primary key check (length(code_sha256) = 32),
  user_id bigint references users on delete cascade,
  key_sha256 bytea check (length(key_sha256) = 32),
  expires_at timestamptz not null,
  check (num_nonnulls(user_id, key_sha256) = 1)
);
create index login_codes_user on login_codes (user_id) where user_id is not null;
create index login_codes_end on login_codes (expires_at);

-- Logins that browsers have begun at the provider. browser_sha256: the cookie that binds the
-- browser. path: the page of the console to come back to. session_id: the browser's session then,
-- which the login confirms, or replaces. origin: the address that began it, for the limit.
create table oidc_logins (
  state_sha256 bytea primary key check (length(state_sha256) = 32),
  browser_sha256 bytea not null check (length(browser_sha256) = 32),
  path text not null,
  confirms boolean not null,
  session_id uuid references sessions on delete set null,
  origin text not null,
  created_at timestamptz not null default opsjobs_now(),
  expires_at timestamptz not null
);
create index oidc_logins_end on oidc_logins (expires_at);
create index oidc_logins_origin on oidc_logins (origin, created_at);
create index oidc_logins_session on oidc_logins (session_id) where session_id is not null;

-- Attempts to log in, by user name and by address (key). until: end of the window or the lockout.
create table login_attempts (
  key text primary key,
  n integer not null,
  until timestamptz not null
);
create index login_attempts_until on login_attempts (until);

-- Services, which sign their own tokens.
-- made_by: who registered the service or changed it last. answers_to: the user, service or external
-- identity responsible for it, whose permissions limit it; null for none, as for the installation's
-- own key. makers: all identities that may have its secret.
create table service_clients (
  id bigint generated always as identity primary key,
  uuid uuid not null unique,
  name text not null unique,
  public_key text not null,
  grants jsonb not null check (jsonb_typeof(grants) = 'array'),
  disabled_at timestamptz,
  created_at timestamptz not null default opsjobs_now(),
  updated_at timestamptz not null default opsjobs_now(),
  made_by text,
  made_by_kind text,
  answers_to text,
  answers_to_kind text,
  makers text[] not null default '{}'
);

-- External identities that launched or own something, and the grants of their last token.
-- issued_at: Unix seconds of that token; an older one changes nothing.
create table external_people (
  name text primary key,
  roles text[] not null,
  grants jsonb not null,
  person text,
  seen_at timestamptz not null default opsjobs_now(),
  issued_at double precision
);

-- A key has a role or grants. user_id: the user whose key it is; it is deleted with that user.
-- answers_to: the service or external identity that made the key, directly or with another key; its
-- permissions limit the key. makers: all identities that may have the secret.
create table api_keys (
  id bigint generated always as identity primary key,
  uuid uuid not null unique,
  name text not null unique,
  token_sha256 bytea not null unique check (length(token_sha256) = 32),
  role text check (role in ('viewer', 'operator', 'developer', 'manager', 'admin')),
  created_at timestamptz not null default opsjobs_now(),
  expires_at timestamptz,
  last_used_at timestamptz,
  grants jsonb check (jsonb_typeof(grants) = 'array'),
  person text,
  made_by text,
  made_by_kind text,
  user_id bigint references users on delete cascade,
  answers_to text,
  answers_to_kind text,
  makers text[] not null default '{}',
  constraint api_keys_may_something check (role is not null or grants is not null)
);
create index api_keys_user on api_keys (user_id) where user_id is not null;

create table idempotency_keys (
  principal text not null,
  route text not null,
  key text not null,
  body_sha256 bytea not null check (length(body_sha256) = 32),
  status integer,
  location text,
  answer jsonb,
  created_at timestamptz not null default opsjobs_now(),
  primary key (principal, route, key)
);
create index idempotency_keys_age on idempotency_keys (created_at);


-- Inventory: credentials, targets, groups, circuits.

-- bound_*: the only targets, groups and jobs that may use it; empty: any. source: public part of a
-- secret that an external store holds; the sealed part counts.
create table credentials (
  id bigint generated always as identity primary key,
  uuid uuid not null unique,
  name text not null unique,
  type text not null check (type in ('password', 'ssh_key', 'ssh_certificate',
                                     'client_certificate', 'kerberos', 'agent', 'secret')),
  username text not null,
  version integer not null default 1,
  key_id text not null,
  wrapped_key bytea not null,
  sealed bytea not null,
  created_at timestamptz not null default opsjobs_now(),
  updated_at timestamptz not null default opsjobs_now(),
  bound_targets text[] not null default '{}',
  bound_groups text[] not null default '{}',
  bound_jobs bigint[] not null default '{}',
  last_used_at timestamptz,
  source jsonb
);
create index credentials_authority on credentials ((source->>'authority'))
  where source ? 'authority';

-- external_id: the id in the platform's Target Service; null for a target that is kept here.
-- synced_at: when the service told it last. gone_at: since when the service does not have it.
-- label_credential_id: the credential that the label `credential` of such a target names;
-- credential_id, which is set here, comes first. winrm: scheme, authentication and trust.
-- name_order, host_order: the name and the host with their numbers filled up with zeros, as
-- natural_key of store/paging.py makes them: web-2 is before web-10. Stored, because 20,000 of them
-- take 70 ms.
create table targets (
  id bigint generated always as identity primary key,
  uuid uuid not null unique,
  name text not null unique,
  host text not null,
  port integer not null check (port between 1 and 65535),
  transport text not null check (transport in ('ssh', 'winrm', 'local')),
  platform text not null,
  labels jsonb not null default '{}',
  groups text[] not null default '{}',
  credential_id bigint references credentials,
  label_credential_id bigint references credentials,
  host_keys text[] not null default '{}',
  host_key_policy text not null
    check (host_key_policy in ('pinned', 'ca', 'accept_new', 'unchecked')),
  zone text not null default 'default',
  slots integer not null check (slots >= 1),
  jump_id bigint references targets,
  durable text not null default 'auto' check (durable in ('auto', 'required', 'off')),
  winrm jsonb,
  external_id text unique,
  synced_at timestamptz,
  gone_at timestamptz,
  name_order text not null generated always as (left(regexp_replace(regexp_replace(
    name, '([0-9]+)', '000000000000\1', 'g'), '[0-9]*([0-9]{12})', '\1', 'g'), 200)) stored,
  host_order text not null generated always as (left(regexp_replace(regexp_replace(
    host, '([0-9]+)', '000000000000\1', 'g'), '[0-9]*([0-9]{12})', '\1', 'g'), 200)) stored,
  version integer not null default 1,
  created_at timestamptz not null default opsjobs_now(),
  updated_at timestamptz not null default opsjobs_now(),
  check (jump_id <> id),
  check ((external_id is null) = (synced_at is null)),
  constraint targets_winrm_check check ((winrm is not null) = (transport = 'winrm'))
);
create index targets_labels on targets using gin (labels);
create index targets_groups on targets using gin (groups);
create index targets_host on targets (host);
create index targets_by_name on targets (name_order, id);
create index targets_by_host on targets (host_order, id);
create index targets_label_credential_id_idx on targets (label_credential_id)
  where label_credential_id is not null;

-- One row for each source whose targets are mirrored; synced_at: when all of it was read.
create table mirrors (
  name text primary key,
  synced_at timestamptz not null
);

-- The spool (the token in ~/.opsjobs/id) and the boot that a target reported last. A hint: losing
-- it is harmless.
create table target_state (
  target_id text primary key,
  store_id text not null,
  boot_id text not null,
  seen_at timestamptz not null default opsjobs_now()
) with (fillfactor = 50);

-- Locked by every claim and settle of a run on the target. A row outlives its target.
-- held_until: end of the target's maintenance (infinity: until further notice); its runs wait.
create table target_slots (
  target_id text primary key,
  slots integer not null,
  used integer not null default 0,
  held_until timestamptz,
  held_reason text,
  held_by text,
  check (used between 0 and slots)
) with (fillfactor = 50);
-- The few that are in maintenance.
create index target_slots_held on target_slots (target_id) where held_until is not null;

-- Groups of targets. A target is in one if its `groups` name it, if the group's selector matches
-- it, or if it is in a group that this one contains. A name that only targets use is a group, too.
create table target_groups (
  id bigint generated always as identity primary key,
  uuid uuid not null unique default gen_random_uuid(),
  name text not null unique,
  description text not null default '',
  selector text,
  groups text[] not null default '{}',
  created_at timestamptz not null default opsjobs_now(),
  updated_at timestamptz not null default opsjobs_now()
);
create index target_groups_groups on target_groups using gin (groups);

-- One login on one machine. credential_id: '' for none. login: a digest of everything whose change
-- makes it a different login. proven: it was accepted once, so no trial is needed.
-- holder: the process that tries now, until held_until unless that is extended.
create table circuits (
  id bigint generated always as identity primary key,
  uuid uuid not null unique default gen_random_uuid(),
  target_id text not null,
  credential_id text not null,
  login text not null,
  state text not null default 'closed' check (state in ('closed', 'open', 'half_open')),
  proven boolean not null default false,
  failures integer not null default 0 check (failures >= 0),
  trips integer not null default 0 check (trips >= 0),
  code text,
  message text,
  since timestamptz,
  until timestamptz,
  holder uuid,
  held_until timestamptz,
  unique (target_id, credential_id),
  constraint not_closed_has_a_reason
    check (state = 'closed' or (code is not null and since is not null and until is not null)),
  constraint a_right_ends check ((holder is null) = (held_until is null))
) with (fillfactor = 70);
create index circuits_unwell on circuits (id) where state <> 'closed' or failures > 0;
create index circuits_held on circuits (holder) where holder is not null;


-- Retired names of users, API keys, services and targets that were deleted or renamed. Files,
-- schedules, executions and jobs refer to them by name, so a new one of that name would inherit
-- them. labels: the last ones of a target. Rows of targets are deleted with the executions of their
-- time.
create table spent_names (
  noun text not null check (noun in ('user', 'api_key', 'service', 'target')),
  name text not null,
  spent_at timestamptz not null default opsjobs_now(),
  labels jsonb not null default '{}',
  primary key (noun, name)
);
create index spent_names_of_targets on spent_names (spent_at) where noun = 'target';
-- A trigger, so that a cascading delete retires names, too.
create function opsjobs_spend_name() returns trigger language plpgsql as $$
begin
  insert into spent_names (noun, name, labels) values (tg_argv[0], old.name,
    coalesce(to_jsonb(old) -> 'labels', '{}'))
  on conflict (noun, name) do update set spent_at = opsjobs_now(), labels = excluded.labels;
  return null;
end $$;
create trigger users_spend_name after delete on users
  for each row execute function opsjobs_spend_name('user');
create trigger api_keys_spend_name after delete on api_keys
  for each row execute function opsjobs_spend_name('api_key');
create trigger service_clients_spend_name after delete on service_clients
  for each row execute function opsjobs_spend_name('service');
create trigger targets_spend_name after delete on targets
  for each row execute function opsjobs_spend_name('target');
create trigger targets_spend_old_name after update of name on targets
  for each row when (old.name is distinct from new.name)
  execute function opsjobs_spend_name('target');


-- Jobs. Every change makes a new immutable version.
create table jobs (
  id bigint generated always as identity primary key,
  uuid uuid not null unique,
  name text not null,
  state text not null check (state in ('draft', 'active', 'paused', 'archived')),
  version integer not null default 1,
  last_number integer not null default 0,
  created_by text not null,
  created_at timestamptz not null default opsjobs_now(),
  updated_at timestamptz not null default opsjobs_now(),
  archived_at timestamptz check ((archived_at is not null) = (state = 'archived'))
);
create unique index jobs_name on jobs (name) where state <> 'archived';

-- judgement: {verdict, findings} of the safety check. author: {name, kind, person, makers}, as it
-- may not approve what it wrote.
create table job_versions (
  job_id bigint not null references jobs,
  version integer not null,
  name text not null,
  description text not null,
  job_type text not null check (job_type in ('command', 'script', 'file_transfer', 'composite')),
  tags text[] not null default '{}',
  policy jsonb not null,
  created_by text not null,
  created_at timestamptz not null default opsjobs_now(),
  parameters jsonb not null default '[]',
  judgement jsonb,
  author jsonb,
  primary key (job_id, version)
);
create table job_actions (
  id bigint generated always as identity primary key,
  job_id bigint not null,
  version integer not null,
  position integer not null,
  key text not null,
  type text not null,
  definition jsonb not null,
  foreign key (job_id, version) references job_versions,
  unique (job_id, version, key),
  unique (job_id, version, position)
);
create table job_targets (
  id bigint generated always as identity primary key,
  job_id bigint not null,
  version integer not null,
  position integer not null,
  kind text not null check (kind in ('id', 'group', 'selector', 'exclude')),
  value text not null,
  foreign key (job_id, version) references job_versions,
  unique (job_id, version, position)
);
-- A selector may be longer than an index entry; only ids and groups are searched by index.
create index job_targets_named on job_targets (kind, value) where kind in ('id', 'group');

-- The labels of a job are its tags: `env=staging` is a label with a value, `web` one without. Of
-- two with the same name, the later one counts. `labels_of` in model/access.py is the Python form.
create function opsjobs_labels(tags text[]) returns jsonb language sql immutable parallel safe as $$
  select coalesce(jsonb_object_agg(split_part(t.tag, '=', 1),
           case when strpos(t.tag, '=') > 0 then substr(t.tag, strpos(t.tag, '=') + 1) else '' end
             order by t.nth), '{}')
  from unnest(tags) with ordinality as t(tag, nth)
$$;


-- Triggers: URLs that launch a job.

-- definition: the trigger as it was written. The secret is sealed for secret_version. calls: all
-- calls by holders of the secret; window_calls: those since window_began_at that launched or were
-- refused, for the limit of calls a minute.
create table job_triggers (
  id bigint generated always as identity primary key,
  uuid uuid not null unique,
  job_id bigint not null references jobs,
  name text not null,
  definition jsonb not null,
  owner text not null,
  owner_kind text not null
    check (owner_kind in ('api_key', 'user', 'service', 'external', 'system')),
  enabled boolean not null,
  expires_at timestamptz,
  secret_version integer not null default 1 check (secret_version >= 1),
  key_id text not null,
  wrapped_key bytea not null,
  sealed bytea not null,
  calls bigint not null default 0 check (calls >= 0),
  window_began_at timestamptz not null default timestamptz 'epoch',
  window_calls integer not null default 0 check (window_calls >= 0),
  created_at timestamptz not null default opsjobs_now(),
  updated_at timestamptz not null default opsjobs_now()
) with (fillfactor = 70);
create unique index job_triggers_name on job_triggers (job_id, name);

-- The last calls of each trigger. times: the number of refused calls that the row stands for. The
-- execution may be deleted by retention.
create table trigger_calls (
  id bigint generated always as identity primary key,
  trigger_id bigint not null references job_triggers on delete cascade,
  at timestamptz not null default opsjobs_now(),
  outcome text not null
    check (outcome in ('launched', 'repeated', 'ignored', 'ping', 'refused')),
  code text,
  reason text,
  times integer not null default 1 check (times >= 1),
  delivery text,
  address text,
  execution_id bigint,
  constraint the_refused_have_a_code check ((code is not null) = (outcome = 'refused')),
  constraint the_launched_have_an_execution
    check (outcome <> 'launched' or execution_id is not null)
);
create index trigger_calls_of_trigger on trigger_calls (trigger_id, id);


-- Executions.

-- The row is the execution's only lock, so it is narrow; constant columns are in execution_specs.
-- open_until: the last position that may be admitted (null: all); waves are ranges of positions.
-- watched: settling has to advance it (waves, max_fail, barriers, names, a parent).
-- halted: runs that have not begun are skipped. named: it requests exclusive names.
-- hold_until: its runs wait for unreachable targets until then.
-- partly_cancelled: some of its runs were cancelled one by one (cancelled_runs). Statements look
-- there only if it is set, so that other executions cost nothing.
create table job_executions (
  id bigint generated always as identity primary key,
  uuid uuid not null unique,
  job_id bigint references jobs,
  job_version integer,
  number integer,
  log_day date not null,
  status text not null
    check (status in ('pending_approval', 'queued', 'running', 'completed', 'partial',
                      'failed', 'timeout', 'cancelled', 'rejected')),
  paused boolean not null default false,
  cancelling boolean not null default false,
  open_wave integer not null default 0,
  "window" integer not null check ("window" >= 0),
  priority smallint not null check (priority between 1 and 10),
  total integer not null,
  waiting integer not null default 0 check (waiting >= 0),
  ready integer not null default 0 check (ready >= 0),
  running integer not null default 0 check (running >= 0),
  succeeded integer not null default 0 check (succeeded >= 0),
  failed integer not null default 0 check (failed >= 0),
  unreachable integer not null default 0 check (unreachable >= 0),
  timeout integer not null default 0 check (timeout >= 0),
  cancelled integer not null default 0 check (cancelled >= 0),
  skipped integer not null default 0 check (skipped >= 0),
  blocked integer not null default 0 check (blocked >= 0),
  lost integer not null default 0 check (lost >= 0),
  dead integer not null default 0 check (dead >= 0),
  last_seq bigint not null default 0,
  created_at timestamptz not null,
  started_at timestamptz,
  finished_at timestamptz,
  deadline_at timestamptz,
  open_until integer,
  watched boolean not null default false,
  halted boolean not null default false,
  named boolean not null default false,
  hold_until timestamptz,
  partly_cancelled boolean not null default false,
  constraint counters_add_up
    check (waiting + ready + running + succeeded + failed + unreachable + timeout + cancelled
           + skipped + blocked + lost + dead = total),
  constraint window_holds check (ready + running <= "window"),
  constraint ended_means_empty
    check ((finished_at is null) = (status in ('pending_approval', 'queued', 'running'))
           and (finished_at is null or waiting + ready + running = 0)),
  -- It has no room for any run, no deadline, and has begun nothing.
  constraint the_pending_hold_nothing
    check (status <> 'pending_approval'
           or ("window" = 0 and started_at is null and deadline_at is null)),
  unique (job_id, number)
) with (fillfactor = 40);
create index job_executions_open on job_executions (id) where finished_at is null;
create index job_executions_job on job_executions (job_id, id);
create index job_executions_finished on job_executions (finished_at) where finished_at is not null;
create index job_executions_cancelling on job_executions (id)
  where cancelling and finished_at is null;
create index job_executions_paused on job_executions (id) where paused and finished_at is null;
create index job_executions_halted on job_executions (id) where halted and finished_at is null;
create index job_executions_pending on job_executions (id) where status = 'pending_approval';
create index job_executions_deadline on job_executions (deadline_at)
  where finished_at is null and deadline_at is not null;
create index job_executions_status on job_executions (status, id);
create index job_executions_created on job_executions (created_at, id);

-- The status of an execution whose runs have all ended. model/execution.py has the Python form, and
-- a test compares them.
create function opsjobs_verdict(cancel_asked boolean, total integer, succeeded integer,
  timed_out integer, cancelled integer)
  returns text language sql immutable as $$
  select case when cancel_asked and cancelled > 0 then 'cancelled'
              when succeeded = total then 'completed'
              when succeeded > 0 then 'partial'
              when timed_out = total then 'timeout'
              else 'failed' end $$;
-- {status: n} without zeros, as GET /executions/{id} shows it; ready runs are waiting there, too.
create function opsjobs_counts(e job_executions) returns jsonb language sql immutable as $$
  select coalesce(jsonb_object_agg(k, n) filter (where n > 0), '{}') from (values
    ('waiting', e.waiting + e.ready), ('running', e.running), ('succeeded', e.succeeded),
    ('failed', e.failed),
    ('unreachable', e.unreachable), ('timeout', e.timeout), ('cancelled', e.cancelled),
    ('skipped', e.skipped),
    ('blocked', e.blocked), ('lost', e.lost), ('dead', e.dead)) c(k, n) $$;

-- summary: the first line of what an ad-hoc execution runs; null for executions of jobs, which have
-- a name.
-- labels: those that all targets had in common at the launch. requester: {name, kind, person}.
-- judgement: {verdict, findings} of the safety check; null: not checked.
-- target_versions: of each target, by the position of its run, the version that was checked, in 4
-- bytes, big endian. target_pins: of each a SHA-256 of its address, route, login and labels, if an
-- approval is needed.
create table execution_specs (
  execution_id bigint primary key references job_executions on delete cascade,
  job_name text not null,
  actions jsonb not null,
  parameters jsonb not null default '{}',
  policy jsonb not null,
  triggered_by text not null
    check (triggered_by in ('manual', 'schedule', 'api', 'webhook', 'retry', 'workflow')),
  requested_by text not null,
  reason text,
  cancelled_by text,
  cancel_reason text,
  parent_id bigint references job_executions on delete set null,
  traceparent text,
  paused_by text,
  pause_reason text,
  halt_reason text,
  labels jsonb not null default '{}',
  requested_by_kind text not null default 'api_key'
    constraint execution_specs_requested_by_kind
    check (requested_by_kind in ('api_key', 'user', 'service', 'external', 'system')),
  requester jsonb,
  judgement jsonb,
  target_versions bytea,
  target_pins bytea,
  summary text check (length(summary) <= 200)
);
create index execution_specs_parent on execution_specs (parent_id) where parent_id is not null;
create index execution_specs_job_name on execution_specs (job_name, execution_id);
create index execution_specs_requested_by on execution_specs (requested_by, execution_id);
create index execution_specs_triggered_by on execution_specs (triggered_by, execution_id);
-- The summaries of ad-hoc executions are searched in their index.
create index execution_specs_summary on execution_specs (execution_id) include (summary)
  where summary is not null;
-- The executions that use an uploaded file. A launch without transfers costs nothing here.
create index execution_specs_transfers on execution_specs using gin (actions jsonb_path_ops)
  where actions @> '[{"type": "file_transfer"}]';
-- Executions with secret parameters, for the rotation of the keys that seal them.
create index execution_specs_sealed on execution_specs (execution_id)
  where parameters @? '$.*.sealed';

-- A copy of the labels of executions, so that the newest with a label are found in order.
create table execution_labels (
  key text not null,
  value text not null,
  execution_id bigint not null references job_executions on delete cascade,
  primary key (execution_id, key)
);
create index execution_labels_walk on execution_labels (md5(key || '=' || value), execution_id);
create function opsjobs_label_execution() returns trigger language plpgsql as $$
begin
  insert into execution_labels (key, value, execution_id)
  select l.key, l.value, s.execution_id from written s cross join jsonb_each_text(s.labels) l
    where s.labels <> '{}';
  return null;
end $$;
create trigger execution_specs_label after insert on execution_specs
  referencing new table as written
  for each statement execute function opsjobs_label_execution();


-- Runs on targets.

-- taken_over: its owner took it over from a worker whose lease expired; claims: how often that
-- happened since the run's last recorded progress. store_id, boot_id: the spool and boot in which
-- its command may have been started ('direct': outside of a spool); never set while the run waits.
-- spool_due: when to remove its folders from the target. sweep_due: when to look up a lost outcome
-- there again. not_before: end of a timer, a back-off or a hold. awaits: the subject of a wait: the
-- key of a barrier or an approval, the uuid of a child execution, the reason of a hold.
-- passed: barriers that opened for it. contact_lost_at: set while its worker cannot reach the
-- machine; in no index and no predicate, so that flushes stay HOT.
create table target_runs (
  id bigint generated always as identity primary key,
  uuid uuid not null unique,
  execution_id bigint not null references job_executions on delete cascade,
  target_id text not null,
  target_name text not null,
  target_host text not null,
  zone text not null,
  position integer not null,
  wave integer not null default 0,
  status text not null default 'waiting'
    check (status in ('waiting', 'running', 'succeeded', 'failed', 'unreachable', 'timeout',
                      'cancelled', 'skipped', 'blocked', 'lost', 'dead')),
  waiting_for text default 'admission'
    check (waiting_for in ('admission', 'slot', 'backoff', 'barrier', 'approval', 'child', 'timer',
                           'hold')),
  turn bigint,
  owner uuid,
  worker text,
  fence bigint not null default 0,
  claims integer not null default 0,
  attempt integer not null default 1,
  exit_code integer,
  error_code text,
  error_message text,
  cancel_proof text
    check (cancel_proof in ('never_started', 'killed', 'already_finished', 'unreachable')),
  late_result jsonb,
  claimed_at timestamptz,
  finished_at timestamptz,
  store_id text,
  boot_id text,
  taken_over boolean not null default false,
  spool_due timestamptz,
  sweep_due timestamptz,
  sweeps integer not null default 0,
  not_before timestamptz,
  awaits text,
  passed text[],
  contact_lost_at timestamptz,
  constraint only_the_waiting_wait check (waiting_for is null or status = 'waiting'),
  constraint the_ready_have_a_turn
    check (status <> 'waiting' or waiting_for is not null or turn is not null),
  constraint the_running_have_an_owner
    check (status <> 'running' or (owner is not null and fence > 0)),
  constraint the_ended_have_an_end
    check ((finished_at is not null) = (status not in ('waiting', 'running'))),
  unique (execution_id, position)
) with (fillfactor = 70);
-- No other columns in their predicates: claims and flushes of running runs stay HOT.
create index target_runs_ready on target_runs (zone, turn, id)
  where status = 'waiting' and waiting_for is null;
create index target_runs_admission on target_runs (execution_id, position)
  where status = 'waiting' and waiting_for = 'admission';
create index target_runs_slot on target_runs (target_id, turn)
  where status = 'waiting' and waiting_for = 'slot';
create index target_runs_owner on target_runs (owner) where status = 'running';
create index target_runs_not_before on target_runs (not_before)
  where status = 'waiting' and not_before is not null;
create index target_runs_awaits on target_runs (execution_id, awaits)
  where status = 'waiting' and awaits is not null;
create index target_runs_child on target_runs (awaits)
  where status = 'waiting' and waiting_for = 'child';
create index target_runs_held on target_runs (target_id)
  where status = 'waiting' and waiting_for = 'hold';
create index target_runs_spool on target_runs (zone, spool_due) where spool_due is not null;
create index target_runs_sweep on target_runs (zone, sweep_due) where sweep_due is not null;
create index target_runs_dead on target_runs (id) where status in ('lost', 'dead');
create index target_runs_of_target on target_runs (target_id, id);

-- The runs of an execution that were asked to be cancelled, by whom and why. A table of its own,
-- because a run's row may be locked by a claim that waits for the execution's lock; for the same
-- reason there is no foreign key to it.
create table cancelled_runs (
  execution_id bigint not null references job_executions on delete cascade,
  target_run_id bigint not null,
  cancelled_by text not null,
  reason text,
  cancelled_at timestamptz not null default opsjobs_now(),
  primary key (execution_id, target_run_id)
);

-- turn: below it the zone has no ready run, except possibly one that was left behind. Claims write
-- it at most once a second. Candidates are looked for from there on, so that index entries of runs
-- claimed since the oldest snapshot are not read again and again.
create table zone_turns (
  zone text primary key,
  turn bigint not null,
  written_at timestamptz not null default opsjobs_now()
) with (fillfactor = 20);

-- One attempt of one action of one run. *_stored: bytes of the target's output that the log holds.
-- command: the line as it was run, if the definition has another one. outputs: values that the
-- action passes to later ones. inherited_from: the execution whose run performed it: a retry begins
-- where its parent failed, and has copies of the results that succeeded there.
-- store_id, boot_id: where this attempt may have been started ('direct': outside of a spool).
-- again_at: it is retried, not before this time, so this end is not final. logged_in: when its
-- connection was logged in to, by the worker's clock, if the action waited for that.
-- late_result: its outcome, found after its run had ended.
-- open_lines: 1: the last line of stdout has no line feed yet, 2: that of stderr; so that a worker
-- that takes over counts no line twice.
create table job_execution_results (
  id bigint generated always as identity primary key,
  execution_id bigint not null,  -- the run's own; its foreign key is the run's
  target_run_id bigint not null references target_runs on delete cascade,
  action text not null,
  attempt integer not null,
  status text not null
    check (status in ('running', 'succeeded', 'failed', 'unreachable', 'timeout', 'cancelled',
                      'skipped', 'blocked', 'lost', 'dead')),
  exit_code integer,
  error_code text,
  error_message text,
  worker text,
  cancel_proof text
    check (cancel_proof in ('never_started', 'killed', 'already_finished', 'unreachable')),
  stdout_stored bigint not null default 0,
  stderr_stored bigint not null default 0,
  stdout_bytes bigint not null default 0,
  stderr_bytes bigint not null default 0,
  started_at timestamptz,
  finished_at timestamptz,
  inherited_from bigint,
  outputs jsonb,
  store_id text,
  boot_id text,
  again_at timestamptz,
  late_result jsonb,
  command text,
  logged_in tstzrange,
  open_lines smallint not null default 0,
  unique (target_run_id, action, attempt)
) with (fillfactor = 80);
create index job_execution_results_execution on job_execution_results (execution_id, id);

-- A person's answer to a run that ended lost or dead; one row, so there cannot be two.
-- execution_id: the new execution of a revived run; retention may have deleted it.
create table dead_letter_answers (
  run_id bigint primary key references target_runs on delete cascade,
  answer text not null check (answer in ('revived', 'discarded')),
  answered_by text not null,
  answered_at timestamptz not null default opsjobs_now(),
  reason text,
  execution_id bigint
);


-- Waves, exclusive names, approvals.

-- The waves of a watched execution. waves: cumulative counts. limits: how many may fail in each
-- (null: all), counted over the wave (per_wave) or the execution. fail_base: failures that no
-- longer count. cause: the gate that paused it.
create table execution_gates (
  execution_id bigint primary key references job_executions on delete cascade,
  waves integer[] not null,
  limits integer[],
  per_wave boolean not null default false,
  confirm boolean not null default false,
  checked boolean not null default false,
  pause_on_fail boolean not null default false,
  fail_base integer not null default 0,
  cause text check (cause in ('confirm', 'max_fail'))
);

-- One row for each name and execution that requests it. Granted all together, in launch order;
-- released when the execution has ended. child: it is part of an execution that may wait for it, so
-- it passes requests that only wait: they may wait for names of its parent, which waits for the
-- child.
create table exclusive_locks (
  name text not null,
  execution_id bigint not null references job_executions on delete cascade,
  granted boolean not null default false,
  child boolean not null default false,
  primary key (name, execution_id)
);
create unique index exclusive_locks_holder on exclusive_locks (name) where granted;
create index exclusive_locks_execution on exclusive_locks (execution_id);
create index exclusive_locks_line on exclusive_locks (name, execution_id) where not granted;
create index exclusive_locks_children on exclusive_locks (name, execution_id)
  where not granted and child;

-- True if an execution and all its parts have ended: its names are released with the last of them.
create function opsjobs_family_over(execution bigint) returns boolean language sql stable as $$
  with recursive line as (
    select execution as id
    union all
    select s.execution_id from line join execution_specs s on s.parent_id = line.id
      and s.triggered_by = 'workflow'
  )
  select not exists (select from line join job_executions e on e.id = line.id
    where e.finished_at is null) $$;

-- Grants a request if none of its names is held.
create function opsjobs_grant_names(candidate bigint) returns boolean language plpgsql
  set enable_seqscan = off as $$
begin
  update exclusive_locks set granted = true where execution_id = candidate and not exists (
    select from exclusive_locks mine join exclusive_locks held on held.name = mine.name
      and held.granted
    where mine.execution_id = candidate and held.execution_id <> candidate);
  return found;
end $$;

-- Releases the names of executions that have ended, grants free names, and returns the executions
-- that now have all requested names. One caller at a time; this lock is taken last of all locks,
-- and each statement sees the rows committed before it. Costs grow with the names, not with the
-- waiting executions: for each free name the first ones are examined, children before others.
-- ended: executions whose requests are removed now. patient: if false and another process is doing
-- it, do nothing.
create function opsjobs_pass_names(ended bigint[] default '{}',
  patient boolean default true) returns setof bigint
  language plpgsql set enable_seqscan = off as $$
declare
  wanted text;
  candidate bigint;
begin
  if not exists (select from exclusive_locks) then
    return;
  end if;
  if patient then
    perform pg_advisory_xact_lock(hashtext('opsjobs_pass_names'));
  elsif not pg_try_advisory_xact_lock(hashtext('opsjobs_pass_names')) then
    return;
  end if;
  delete from exclusive_locks l using job_executions e
  where (l.granted or l.execution_id = any(ended)) and e.id = l.execution_id
    and e.finished_at is not null
    and opsjobs_family_over(l.execution_id);
  for turn in 1 .. 2 loop
    wanted := '';
    loop
      select min(l.name) into wanted from exclusive_locks l where not l.granted and l.name > wanted;
      exit when wanted is null;
      continue when exists (select from exclusive_locks h where h.name = wanted and h.granted);
      if turn = 1 then
        for candidate in
          select l.execution_id from exclusive_locks l join job_executions e
            on e.id = l.execution_id
          where l.name = wanted and not l.granted and l.child and e.finished_at is null
            order by l.execution_id
        loop
          if opsjobs_grant_names(candidate) then
            return next candidate;
            exit;
          end if;
        end loop;
      else
        loop
          select l.execution_id into candidate from exclusive_locks l
          where l.name = wanted and not l.granted order by l.execution_id limit 1;
          exit when candidate is null or not opsjobs_family_over(candidate);
          delete from exclusive_locks where execution_id = candidate;
        end loop;
        if candidate is not null and not exists (
            select from exclusive_locks mine
            where mine.execution_id = candidate and (mine.child or exists (
              select from exclusive_locks o where o.name = mine.name and not o.granted
                and o.execution_id < candidate)))
          and opsjobs_grant_names(candidate) then
          return next candidate;
        end if;
      end if;
    end loop;
  end loop;
end $$;

-- Approvals of actions and of launches. needed: how many different people have to approve.
-- hash, salt: of the plan and its targets, when the approval was requested. withheld: values for
-- the execution's row when it is approved: window, timeout and hold in seconds, exclusive names.
create table approvals (
  id bigint generated always as identity primary key,
  uuid uuid not null unique default gen_random_uuid(),
  execution_id bigint not null references job_executions on delete cascade,
  action text not null,
  message text not null,
  status text not null default 'pending'
    check (status in ('pending', 'approved', 'rejected', 'expired', 'cancelled')),
  asked_at timestamptz not null default opsjobs_now(),
  expires_at timestamptz,
  decided_at timestamptz,
  decided_by text,
  reason text,
  kind text not null default 'action' check (kind in ('action', 'launch')),
  needed integer not null default 1 check (needed between 1 and 20),
  roles text[] not null default '{}',
  users text[] not null default '{}',
  hash text check (length(hash) = 64),
  salt bytea,
  withheld jsonb,
  unique (execution_id, action),
  check ((status = 'pending') = (decided_at is null)),
  constraint a_launch_withholds check ((kind = 'launch') = (withheld is not null))
);
create index approvals_pending on approvals (expires_at) where status = 'pending';
create index approvals_decided on approvals (decided_at);
create index approvals_status on approvals (status, id);
create index approvals_decided_by on approvals (decided_by, id);
create unique index approvals_launch on approvals (execution_id) where kind = 'launch';

-- person: the key by which one human is counted only once. decider: {name, kind, person, makers}.
create table approval_decisions (
  approval_id bigint not null references approvals on delete cascade,
  person text not null,
  decided_by text not null,
  decided_by_kind text not null,
  approve boolean not null,
  overridden boolean not null default false,
  reason text,
  at timestamptz not null default opsjobs_now(),
  decider jsonb,
  primary key (approval_id, person)
);


-- The log: one ordered sequence for each execution, 1, 2, 3 ... without a gap.
-- lines: how many lines of output begin in this entry. Windows of lines are found by their sums.
create table execution_log (
  log_day date not null,
  execution_id bigint not null,
  seq bigint not null,
  at timestamptz not null default opsjobs_now(),
  event text not null check (event in ('output', 'status', 'result', 'end')),
  target_run_id bigint,
  target_id text,
  action text,
  attempt integer,
  stream text check (stream in ('stdout', 'stderr')),
  start_offset bigint,
  data bytea,
  dropped bigint,
  lines integer,
  body jsonb,
  primary key (log_day, execution_id, seq),
  check ((event = 'output') = (stream is not null and start_offset is not null
                               and (data is null) <> (dropped is null)))
) partition by range (log_day);
create index execution_log_output on execution_log (execution_id, target_run_id, seq)
  where event = 'output';
create table execution_log_default partition of execution_log default;

-- Days whose log was dropped because of its age; readers get the error that it is gone.
create table dropped_log_days (
  log_day date primary key,
  dropped_at timestamptz not null default opsjobs_now()
);

-- The days without a partition: today and the given number of days ahead, then days whose rows are
-- in the default partition.
create function opsjobs_wanted_partitions(days_ahead integer) returns setof date language sql stable
  as $$
  with recursive today as materialized (
    select (opsjobs_now() at time zone 'UTC')::date as day
  ), astray as (
    select min(log_day) as day from execution_log_default
    union all
    select (select min(d.log_day) from execution_log_default d where d.log_day > a.day)
      from astray a where a.day is not null
  ), wanted as (
    select t.day + n as day from today t, generate_series(0, days_ahead) n
    where not exists (
      select from pg_inherits i join pg_class c on c.oid = i.inhrelid
      where i.inhparent = 'execution_log'::regclass
        and c.relname = 'execution_log_' || to_char(t.day + n, 'YYYYMMDD'))
    union
    select day from astray where day is not null
  )
  select w.day from wanted w, today t order by w.day < t.day, w.day $$;

-- Makes the partition of a day, with the rows of that day from the default partition. Rows of a day
-- that was dropped arrived too late and are deleted. Returns true if it made one.
create function opsjobs_make_partition(day date) returns boolean language plpgsql as $$
declare
  name text := 'execution_log_' || to_char(day, 'YYYYMMDD');
begin
  perform pg_advisory_xact_lock(hashtext('opsjobs_make_partitions'));
  if exists (select from pg_inherits where inhparent = 'execution_log'::regclass
    and inhrelid = to_regclass(name)) then
    return false;
  end if;
  if exists (select from dropped_log_days d where d.log_day = day) then
    delete from execution_log_default d where d.log_day = day;
    return false;
  end if;
  -- Readers go on until the attaching. Indexes come before it, so that it has none to build.
  lock table execution_log_default in exclusive mode;
  execute format('create table %I (like execution_log including defaults including storage including compression '
                 'including constraints including indexes)', name);
  execute format('with moved as (delete from execution_log_default where log_day = %L returning *) '
                 'insert into %I select * from moved', day, name);
  execute format('alter table execution_log attach partition %I for values from (%L) to (%L)', name,
    day, day + 1);
  return true;
end $$;

-- Output without what differs on every machine: its own name and host become @, numbers, hex, times
-- and days become #, spaces become one. Bytes are read as Latin-1, which has a character for each;
-- a NUL byte, which text cannot hold, becomes a space.
create function opsjobs_generalize(output bytea, name text, host text) returns text
  language sql immutable parallel safe as $$
  select regexp_replace(regexp_replace(
    replace(replace(convert_from(case when position('\x00'::bytea in output) = 0 then output
        else decode(replace(encode(output, 'escape'), '\000', '\040'), 'escape') end, 'LATIN1'),
      convert_from(convert_to(name, 'UTF8'), 'LATIN1'), '@'),
      convert_from(convert_to(host, 'UTF8'), 'LATIN1'), '@'),
    '\m(0x)?[0-9a-fA-F]*[0-9][0-9a-fA-F]*\M|[0-9]+|\m(Mon|Tue|Wed|Thu|Fri|Sat|Sun|Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)\M',
    '#', 'g'), '[ \t]+', ' ', 'g') $$;


-- Files and artifacts.

-- Bytes, stored once for all files with equal bytes. sha256: null while they arrive and once they
-- are doomed. loose: they may have no reference: they still arrive, or a file or artifact was
-- deleted (at touched_at); checked an hour later, and removed if so. written_by: the uploader; null
-- for files that an execution fetched from a target.
create table file_contents (
  id bigint generated always as identity primary key,
  sha256 bytea unique check (length(sha256) = 32),
  size bigint not null default 0 check (size >= 0),
  loose boolean not null default true,
  doomed boolean not null default false check (not (doomed and sha256 is not null)),
  touched_at timestamptz not null default opsjobs_now(),
  written_by text,
  written_by_kind text
) with (fillfactor = 50);
create index file_contents_loose on file_contents (touched_at) where loose and not doomed;
create index file_contents_doomed on file_contents (id) where doomed;
create index file_contents_hex on file_contents (encode(sha256, 'hex'));
create function opsjobs_loosen() returns trigger language plpgsql as $$
begin
  update file_contents set loose = true, touched_at = opsjobs_now()
    where id in (select content_id from gone);
  return null;
end $$;

-- Rows of 256 KiB. No foreign key: it would lock the content's row for each chunk; the writer holds
-- that row anyway.
create table file_chunks (
  content_id bigint not null,
  n integer not null check (n >= 0),
  data bytea not null,
  primary key (content_id, n)
);
-- Most files are already compressed, and a slice of uncompressed data is read without the rest.
alter table file_chunks alter column data set storage external;

-- Uploaded files.
create table files (
  id bigint generated always as identity primary key,
  uuid uuid not null unique,
  name text not null,
  content_id bigint not null references file_contents,
  created_by text not null,
  created_at timestamptz not null default opsjobs_now(),
  created_by_kind text not null default 'api_key'
    check (created_by_kind in ('api_key', 'user', 'service', 'external', 'system'))
);
create index files_content on files (content_id);
create index files_name on files (name, id);
create index files_created_by on files (created_by, id);
create index files_created on files (created_at, id);
create trigger files_loosen after delete on files referencing old table as gone
  for each statement execute function opsjobs_loosen();

-- Bytes of the files of each uploader, maintained by triggers; two files with one content count
-- twice.
create table file_usage (
  created_by text not null,
  created_by_kind text not null,
  bytes bigint not null,
  primary key (created_by, created_by_kind)
);
create function opsjobs_count_added_files() returns trigger language plpgsql as $$
begin
  insert into file_usage as u (created_by, created_by_kind, bytes)
  select f.created_by, f.created_by_kind, sum(c.size) from added f join file_contents c
    on c.id = f.content_id
  group by 1, 2 order by 1, 2
  on conflict (created_by, created_by_kind) do update set bytes = u.bytes + excluded.bytes;
  return null;
end $$;
create function opsjobs_count_deleted_files() returns trigger language plpgsql as $$
begin
  perform from file_usage u where (u.created_by, u.created_by_kind) in (select g.created_by,
    g.created_by_kind from gone g)
  order by u.created_by, u.created_by_kind for update;
  update file_usage u set bytes = u.bytes - d.bytes
  from (select g.created_by, g.created_by_kind, sum(c.size) as bytes
        from gone g join file_contents c on c.id = g.content_id group by 1, 2) d
  where (u.created_by, u.created_by_kind) = (d.created_by, d.created_by_kind);
  delete from file_usage u
  where u.bytes = 0 and (u.created_by, u.created_by_kind) in (select g.created_by, g.created_by_kind
    from gone g);
  return null;
end $$;
create trigger files_count_added after insert on files referencing new table as added
  for each statement execute function opsjobs_count_added_files();
create trigger files_count_deleted after delete on files referencing old table as gone
  for each statement execute function opsjobs_count_deleted_files();

-- Files that an action fetched from a target; they are deleted with their run. requested_by: the
-- caller whose execution fetched the file; '' for none: it is not counted.
create table artifacts (
  id bigint generated always as identity primary key,
  uuid uuid not null unique,
  execution_id bigint not null,
  target_run_id bigint not null references target_runs on delete cascade,
  action text not null,
  attempt integer not null,
  path text not null,
  content_id bigint not null references file_contents,
  created_at timestamptz not null default opsjobs_now(),
  requested_by text not null default '',
  requested_by_kind text not null default ''
);
-- By a hash: a path may be longer than an index entry.
create unique index artifacts_path on artifacts (target_run_id, action, attempt, md5(path));
create index artifacts_execution on artifacts (execution_id, id);
create index artifacts_content on artifacts (content_id);
create trigger artifacts_loosen after delete on artifacts referencing old table as gone
  for each statement execute function opsjobs_loosen();

-- Bytes and number of the artifacts of each caller, maintained by triggers; two artifacts with one
-- content count twice. shard: a caller's runs on thousands of targets do not wait for one row. The
-- sum counts: one shard may be negative.
create table artifact_usage (
  requested_by text not null,
  requested_by_kind text not null,
  shard smallint not null,
  bytes bigint not null,
  artifacts bigint not null,
  primary key (requested_by, requested_by_kind, shard)
);
create function opsjobs_count_artifacts() returns trigger language plpgsql as $$
declare
  sign integer := case tg_op when 'DELETE' then -1 else 1 end;
begin
  insert into artifact_usage as u (requested_by, requested_by_kind, shard, bytes, artifacts)
  select a.requested_by, a.requested_by_kind, pg_backend_pid() % 16, sign * sum(c.size),
    sign * count(*)
  from counted a join file_contents c on c.id = a.content_id
  where a.requested_by <> ''
  group by 1, 2 order by 1, 2
  on conflict (requested_by, requested_by_kind, shard) do update
    set bytes = u.bytes + excluded.bytes, artifacts = u.artifacts + excluded.artifacts;
  return null;
end $$;
create trigger artifacts_count_added after insert on artifacts referencing new table as counted
  for each statement execute function opsjobs_count_artifacts();
create trigger artifacts_count_deleted after delete on artifacts referencing old table as counted
  for each statement execute function opsjobs_count_artifacts();


-- Schedules and calendars.

-- windows: as written by their author (model/calendar_windows.py). Schedules name calendars; a name
-- is looked up when a schedule is due.
create table calendars (
  id bigint generated always as identity primary key,
  uuid uuid not null unique default gen_random_uuid(),
  name text not null unique,
  description text not null default '',
  timezone text not null,
  kind text not null check (kind in ('blackout', 'only')),
  windows jsonb not null check (jsonb_typeof(windows) = 'array'),
  created_at timestamptz not null default opsjobs_now(),
  updated_at timestamptz not null default opsjobs_now()
);

-- When to launch a job. definition: the draft, except `enabled`, which is a column.
-- next_due_at: the next due time that was not fired. next_fire_at: when to fire it (with jitter;
-- later if reading the schedule failed). Both null: never again. firings: launched due times, which
-- max_firings limits. tzdata: the time zone rules by which next_due_at was found; null if it
-- depends on none. authors: who made the schedule, and who changed it last.
create table job_schedules (
  id bigint generated always as identity primary key,
  uuid uuid not null unique,
  job_id bigint not null references jobs,
  name text not null,
  definition jsonb not null,
  owner text not null,
  enabled boolean not null default true,
  paused_reason text,
  next_due_at timestamptz,
  next_fire_at timestamptz,
  firings bigint not null default 0 check (firings >= 0),
  tzdata text,
  version integer not null default 1,
  created_at timestamptz not null default opsjobs_now(),
  updated_at timestamptz not null default opsjobs_now(),
  deleted_at timestamptz,
  owner_kind text not null default 'api_key'
    check (owner_kind in ('api_key', 'user', 'service', 'external', 'system')),
  authors jsonb,
  constraint due_moments_are_fired check ((next_due_at is null) = (next_fire_at is null)),
  constraint the_deleted_are_not_due check (deleted_at is null or next_due_at is null),
  constraint the_paused_have_a_reason check (paused_reason is null or not enabled)
) with (fillfactor = 70);
create unique index job_schedules_name on job_schedules (job_id, name) where deleted_at is null;
create index job_schedules_due on job_schedules (next_fire_at) where next_fire_at is not null;
create index job_schedules_rules on job_schedules (tzdata)
  where tzdata is not null and next_due_at is not null;
create index job_schedules_deleted on job_schedules (deleted_at) where deleted_at is not null;

-- The outcome of a due time, of a series of missed ones (due_at to until_at, at least `moments` of
-- them), or of a trigger. uuid: that of its execution. attempts, not_before: a claim raises
-- attempts by one, and is valid until not_before. in_turn: launched only after the earlier ones of
-- its schedule. awaits: the execution whose end it waits for. expires_at: if not launched by then,
-- it has failed. over: its execution is known to have ended.
create table schedule_executions (
  id bigint generated always as identity primary key,
  uuid uuid not null unique,
  schedule_id bigint not null references job_schedules on delete cascade,
  kind text not null default 'moment' check (kind in ('moment', 'trigger')),
  due_at timestamptz not null,
  until_at timestamptz check (until_at >= due_at),
  moments integer not null default 1 check (moments >= 1),
  fire_at timestamptz not null,
  status text not null check (status in ('pending', 'triggered', 'skipped', 'missed', 'failed')),
  rule text,
  reason text,
  catch_up boolean not null default false,
  in_turn boolean not null default false,
  recorded_at timestamptz not null default opsjobs_now(),
  fired_at timestamptz,
  late_ms bigint,
  not_before timestamptz,
  expires_at timestamptz,
  attempts integer not null default 0,
  awaits bigint,
  execution_id bigint references job_executions on delete set null,
  over boolean not null default false,
  constraint the_pending_are_launched_or_expire
    check ((status = 'pending') = (not_before is not null and expires_at is not null)),
  constraint the_decided_say_when check ((status = 'pending') = (fired_at is null)),
  constraint only_the_triggered_have_an_execution
    check (execution_id is null or status = 'triggered'),
  constraint whatever_did_not_run_says_why
    check (status in ('pending', 'triggered') or (rule is not null and reason is not null))
) with (fillfactor = 70);
create unique index schedule_executions_moment on schedule_executions (schedule_id, due_at)
  where kind = 'moment';
create index schedule_executions_listed on schedule_executions (schedule_id, due_at, id);
create index schedule_executions_ready on schedule_executions (catch_up, not_before)
  where status = 'pending';
create index schedule_executions_waiting on schedule_executions (schedule_id, due_at)
  where status = 'pending';
create index schedule_executions_expiry on schedule_executions (expires_at)
  where status = 'pending';
create index schedule_executions_open on schedule_executions (schedule_id)
  where status = 'triggered' and not over;
create index schedule_executions_execution on schedule_executions (execution_id)
  where execution_id is not null;
create index schedule_executions_status on schedule_executions (schedule_id, status, due_at, id);
create index schedule_executions_rule on schedule_executions (schedule_id, rule, due_at, id)
  where rule is not null;
create index schedule_executions_of_status on schedule_executions (status, id);


-- The audit log: who did what to what, from where; append-only.

-- The transaction of a change writes its row, without a seal. Shortly after, the sealer numbers the
-- rows (seal), without a gap, in the order in which they became visible, and chains and signs them.
create table audit_log (
  id bigint generated always as identity primary key,
  at timestamptz not null default opsjobs_now(),
  actor text not null,
  actor_kind text not null
    check (actor_kind in ('api_key', 'user', 'service', 'external', 'system')),
  person text,
  address text,
  request_id text,
  action text not null check (action ~ '^[a-z_]+\.[a-z_]+$'),
  thing text not null,
  thing_id text,
  thing_name text,
  before jsonb,
  after jsonb,
  reason text,
  seal bigint unique,
  hash bytea,
  key_id text,
  mac bytea,
  constraint audit_log_sealed
    check ((seal is null) = (hash is null) and seal > 0 and length(hash) = 32),
  constraint audit_log_signed
    check ((key_id is null) = (mac is null)
           and (mac is null or seal is not null and length(mac) = 32))
);
create index audit_log_unsealed on audit_log (id) where seal is null;
create index audit_log_at on audit_log (at);
create index audit_log_thing on audit_log (thing, thing_id, id);
create index audit_log_things on audit_log (thing, id);
create index audit_log_thing_id on audit_log (thing_id, id);
create index audit_log_thing_name on audit_log (thing_name, id);
create index audit_log_actor on audit_log (actor, id);
create index audit_log_actor_kind on audit_log (actor_kind, id);
create index audit_log_person on audit_log (person, id);
create index audit_log_address on audit_log (address, id);
create index audit_log_request on audit_log (request_id, id);
create index audit_log_action on audit_log (action, id);

-- The start of the chain (older rows were deleted because of their age) and its end, signed.
-- anchor_seal: rows up to it are not signed. anchor_id: the highest id of an unsealed row of
-- retention at that time; 0 for none.
create table audit_chain (
  one boolean primary key default true check (one),
  base_seal bigint not null default 0 check (base_seal >= 0),
  base_hash bytea not null default decode(repeat('00', 32), 'hex') check (length(base_hash) = 32),
  head_seal bigint not null default 0 check (head_seal >= base_seal),
  head_hash bytea not null default decode(repeat('00', 32), 'hex') check (length(head_hash) = 32),
  anchor_seal bigint not null default 0,
  anchor_id bigint not null default 0,
  key_id text,
  mac bytea check (length(mac) = 32)
);
insert into audit_chain default values;

-- A row is sealed once, and deleted only if the chain starts after it. Everything else is refused.
-- A seal without a signature is not written, without an error: the row waits for a sealer with
-- keys.
create function opsjobs_audit_log_guard() returns trigger language plpgsql as $$
begin
  if tg_op = 'UPDATE' and old.seal is null and new.seal is not null then
    old.seal := new.seal;
    old.hash := new.hash;
    old.key_id := new.key_id;
    old.mac := new.mac;
    if old is not distinct from new then
      return case when new.mac is not null then new end;
    end if;
  elsif tg_op = 'DELETE' and old.seal <= (select base_seal from audit_chain) then
    return old;
  end if;
  raise exception 'the audit log is append only: % is refused',
  tg_op using errcode = 'insufficient_privilege';
end $$;
create trigger audit_log_kept before update or delete on audit_log
  for each row execute function opsjobs_audit_log_guard();
create trigger audit_log_new before insert on audit_log
  for each row when (new.seal is not null) execute function opsjobs_audit_log_guard();
create trigger audit_log_whole before truncate on audit_log
  for each statement execute function opsjobs_audit_log_guard();

-- The chain only grows at its end, and is shortened only at its start; each time with a new
-- signature.
create function opsjobs_audit_chain_guard() returns trigger language plpgsql as $$
begin
  if tg_op = 'UPDATE' and new.base_seal >= old.base_seal and new.head_seal >= old.head_seal then
    if new.mac is distinct from old.mac then
      return new;
    elsif new.base_seal = old.base_seal then
      return null;
    end if;
  end if;
  raise exception 'the chain of the audit log only grows: % is refused',
  tg_op using errcode = 'insufficient_privilege';
end $$;
create trigger audit_chain_kept before insert or update or delete on audit_chain
  for each row execute function opsjobs_audit_chain_guard();
create trigger audit_chain_whole before truncate on audit_chain
  for each statement execute function opsjobs_audit_chain_guard();


-- Events and processes.

-- The outbox: facts, written in the transaction of the change. Those of target runs are one row for
-- each group commit: a range of the log.
-- position: the place of a committed event in the stream: 1, 2, 3 … without a gap. One process at a
-- time assigns it. Ids are no such order: they are taken before the commit, which may come late.
create table events (
  id bigint generated always as identity primary key,
  shard smallint not null check (shard between 0 and 15),
  type text not null,
  subject uuid not null,
  execution_id bigint,
  from_seq bigint,
  to_seq bigint,
  data jsonb,
  traceparent text,
  at timestamptz not null default opsjobs_now(),
  published_at timestamptz,
  position bigint
);
create index events_unpublished on events (shard, id) where published_at is null;
create index events_unpublished_execution on events (execution_id) where published_at is null;
create index events_published on events (published_at) where published_at is not null;
create unique index events_position on events (position) where position is not null;
create index events_without_position on events (id) where position is null;

-- One row: the last position assigned, and the last one deleted.
create table event_positions (
  single boolean primary key default true check (single),
  last bigint not null default 0,
  deleted bigint not null default 0,
  check (deleted <= last)
);
insert into event_positions default values;

-- One row for each incarnation of a worker. The expiry of a lease is recorded (buried_at), not
-- computed from expires_at. last_flush: the number of its last group commit; after a lost response
-- the worker reads here whether it was committed.
create table workers (
  id uuid primary key,
  name text not null,
  zone text not null,
  pid integer not null,
  concurrency integer not null,
  started_at timestamptz not null default opsjobs_now(),
  renewed_at timestamptz not null default opsjobs_now(),
  expires_at timestamptz not null,
  last_flush bigint not null default 0,
  stopped_at timestamptz,
  buried_at timestamptz
) with (fillfactor = 50);
create index workers_alive on workers (expires_at) where buried_at is null;
create index workers_buried on workers (buried_at) where buried_at is not null;
create table services (
  name text primary key,
  ticked_at timestamptz not null
);

-- The state of each connected service of the platform as each process sees it, for GET /status.
-- since, asked_at: by the clock of the process. A row that is not reported again is of a dead process.
create table integration_reports (
  process text not null,
  name text not null,
  host text not null,
  profile text not null,
  state text not null check (state in ('unused', 'ok', 'failing', 'open')),
  last_error text,
  since timestamptz not null,
  asked_at timestamptz,
  reported_at timestamptz not null default opsjobs_now(),
  primary key (process, name)
);


-- Deliveries: messages to receivers outside, with their state.

-- Where messages come from: how far each source has been read, and when a process last read it. One
-- that no process reads any more is deleted. Webhooks and notifications read the events of an
-- installation from its first one: the scheduler may start later than the API, and be killed before
-- it has stored where it began.
create table delivery_sources (
  name text primary key,
  position bigint not null,
  read_at timestamptz not null default opsjobs_now()
);
insert into delivery_sources (name, position) values ('webhooks', 0), ('notifications', 0);

-- Where they go: a webhook, the audit service. failing_since: the first failure since the last
-- success.
create table delivery_receivers (
  id bigint generated always as identity primary key,
  destination text not null,
  key text not null,
  failures integer not null default 0 check (failures >= 0),
  failing_since timestamptz,
  unique (destination, key),
  check ((failures = 0) = (failing_since is null))
);

-- A message is stored once, however many receivers it has.
create table delivery_messages (
  id bigint generated always as identity primary key,
  source text not null,
  message_id text not null,
  type text not null,
  body json not null,
  at timestamptz not null,
  created_at timestamptz not null default opsjobs_now(),
  unique (source, message_id)
);
create index delivery_messages_age on delivery_messages (created_at);

create table deliveries (
  id bigint generated always as identity primary key,
  receiver_id bigint not null references delivery_receivers on delete cascade,
  message_id bigint not null references delivery_messages on delete cascade,
  subject text not null,
  status text not null default 'pending'
    check (status in ('pending', 'delivered', 'failed', 'cancelled')),
  redelivery boolean not null default false,
  attempts integer not null default 0,
  response_code integer,
  response text,
  error text,
  duration_ms integer,
  created_at timestamptz not null default opsjobs_now(),
  attempted_at timestamptz,
  finished_at timestamptz,
  check ((status = 'pending') = (finished_at is null))
);
create unique index deliveries_once on deliveries (message_id, receiver_id) where not redelivery;
create index deliveries_pending on deliveries (receiver_id, subject, id) where status = 'pending';
create index deliveries_of_receiver on deliveries (receiver_id, id);

-- The pending deliveries of one subject to one receiver, which are sent in order. Exists while
-- there are any. claim: the fence of who sends them now, up to lease_until.
create table delivery_lanes (
  receiver_id bigint not null references delivery_receivers on delete cascade,
  subject text not null,
  due_at timestamptz not null default opsjobs_now(),
  lease_until timestamptz,
  claim bigint not null default 0,
  primary key (receiver_id, subject)
) with (fillfactor = 70);
create index delivery_lanes_due on delivery_lanes (receiver_id, due_at);

-- Webhooks get the events that their owner may see. sealed: the secrets, current first. A secret
-- before the last rotation signs, too, until previous_until.
create table webhooks (
  id bigint generated always as identity primary key,
  uuid uuid not null unique,
  name text not null unique,
  url text not null,
  events text[] not null check (cardinality(events) > 0),
  selector text,
  enabled boolean not null default true,
  disabled_reason text check (disabled_reason is null or not enabled),
  owner text not null,
  owner_kind text not null check (owner_kind in ('api_key', 'user', 'service', 'external')),
  version bigint not null default 1,
  key_id text not null,
  wrapped_key bytea not null,
  sealed bytea not null,
  previous_until timestamptz,
  created_at timestamptz not null default opsjobs_now(),
  updated_at timestamptz not null default opsjobs_now()
);

-- The owner of each name that a webhook has had. Rules of notifications name webhooks: after a
-- webhook is deleted or renamed, its name stays with the owner, so that no other receives what was
-- meant for it. released_at: since when no webhook has the name.
create table webhook_names (
  name text primary key,
  owner text not null,
  owner_kind text not null,
  released_at timestamptz
);
create index webhook_names_owner on webhook_names (owner, owner_kind);


-- Notifications.

-- The outcome of the last execution of each job, and of the executions of each schedule that has
-- rules of its own. failures: executions that failed in a row. Kept while rules apply.
create table notification_outcomes (
  scope text not null check (scope in ('job', 'schedule')),
  scope_id bigint not null,
  outcome text not null check (outcome in ('ok', 'failed')),
  failures integer not null default 0 check (failures >= 0),
  execution_id bigint not null,
  finished_at timestamptz not null,
  primary key (scope, scope_id),
  check ((outcome = 'ok') = (failures = 0))
);

-- The state of each rule that has quiet rules: its messages of the last hour, how many it has held
-- back since, and what its digest has gathered (the first ones; gathered_count: all). Rules of the
-- default are counted over the whole installation: scope_id 0.
create table notification_rules (
  scope text not null check (scope in ('job', 'schedule', 'execution', 'default')),
  scope_id bigint not null,
  rule_key text not null,
  rule jsonb not null,
  sent_at timestamptz[] not null default '{}',
  held integer not null default 0 check (held >= 0),
  held_since timestamptz,
  digest_due_at timestamptz,
  gathered jsonb not null default '[]',
  gathered_count integer not null default 0 check (gathered_count >= 0),
  updated_at timestamptz not null default opsjobs_now(),
  primary key (scope, scope_id, rule_key),
  check ((held = 0) = (held_since is null)),
  check ((gathered_count = 0) = (digest_due_at is null))
);
create index notification_rules_due on notification_rules (digest_due_at)
  where digest_due_at is not null;
create index notification_rules_age on notification_rules (updated_at);

-- One row: the rules of jobs and schedules that have none of their own.
create table notification_default (
  single boolean primary key default true check (single),
  rules jsonb not null default '[]',
  updated_at timestamptz not null default opsjobs_now()
);
insert into notification_default default values;


-- Statistics, for GET /stats.

-- The executions that ended in an hour, by job type, labels and status, with their runs by status.
create table execution_hours (
  hour timestamptz not null,
  job_type text not null,
  labels jsonb not null,
  status text not null,
  executions integer not null,
  succeeded bigint not null,
  failed bigint not null,
  unreachable bigint not null,
  timeout bigint not null,
  cancelled bigint not null,
  skipped bigint not null,
  blocked bigint not null,
  lost bigint not null,
  dead bigint not null
);
create index execution_hours_hour on execution_hours (hour);

-- The same by job. job_id: null for executions without a job. judged: those that were neither
-- cancelled nor rejected.
create table execution_hour_jobs (
  hour timestamptz not null,
  job_id bigint,
  labels jsonb not null,
  executions integer not null,
  completed integer not null,
  judged integer not null
);
create index execution_hour_jobs_hour on execution_hour_jobs (hour);

-- How long the executions of an hour ran, or waited for their first run, in classes of a logarithmic
-- scale: class n begins at 1 ms times 1.1 to the power of n.
create table execution_hour_times (
  hour timestamptz not null,
  job_type text not null,
  labels jsonb not null,
  kind text not null check (kind in ('duration', 'queue')),
  class smallint not null check (class between 0 and 250),
  executions integer not null
);
create index execution_hour_times_hour on execution_hour_times (hour);

-- counted_until: all hours before it are counted, as far back as is ever asked for.
create table statistics_progress (
  single boolean primary key default true check (single),
  counted_until timestamptz not null
);
insert into statistics_progress (counted_until)
values (date_trunc('hour', opsjobs_now(), 'UTC'));


-- Restores.

-- Restores of this database from a backup. backup_at: when the backup was begun. What happened after
-- that is not recorded here, but may have happened on the targets.
create table restores (
  id bigint generated always as identity primary key,
  backup_at timestamptz not null,
  restored_at timestamptz not null default opsjobs_now()
);

-- The time of the backup since which an execution may have run unrecorded; null: it cannot have.
-- It can have if it, its schedule's due time, or the execution whose action launched it is older
-- than a restore. A person who retries it afterwards decides again.
create function opsjobs_restored_from(execution bigint) returns timestamptz language sql stable as $$
  select case when exists (select from restores) then (
    with recursive line as (
      select execution as id
      union all
      select s.parent_id from line join execution_specs s on s.execution_id = line.id
      where s.triggered_by = 'workflow' and s.parent_id is not null
    ), origin as (
      select least(min(e.created_at), min(f.due_at)) as at
      from line join job_executions e on e.id = line.id
        left join schedule_executions f on f.execution_id = line.id
    )
    select min(r.backup_at) from restores r, origin o where r.restored_at >= o.at
  ) end $$;
