-- A session with a subject is that of a person of an OpenID Connect provider, by the cookie of a
-- browser. external_name: the person's name here. roles, grants, issued_at: what the claims of the
-- last login gave. logout_url: the provider's own logout, if it has one.
alter table sessions
  drop constraint sessions_check,
  drop constraint sessions_check1,
  add column issuer text,
  add column subject text,
  add column external_name text,
  add column display_name text,
  add column email text,
  add column roles text[],
  add column grants jsonb check (jsonb_typeof(grants) = 'array'),
  add column issued_at double precision,
  add column logout_url text,
  add constraint sessions_owner check (num_nonnulls(user_id, key_sha256, subject) = 1),
  add constraint sessions_proof check (cookie_sha256 is not null or user_id is not null),
  add constraint sessions_person check (
    num_nulls(issuer, subject, external_name, roles, grants) in (0, 5));
create index sessions_external on sessions (external_name, created_at)
  where external_name is not null;

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
