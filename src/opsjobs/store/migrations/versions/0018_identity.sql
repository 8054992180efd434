-- Users of our own. grants: [{role, permissions, scope}].
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

-- A login, and its refresh tokens: each is good once, and one that comes twice ends the login.
create table sessions (
  id uuid primary key,
  user_id bigint not null references users on delete cascade,
  created_at timestamptz not null default opsjobs_now(),
  expires_at timestamptz not null,
  ended_at timestamptz,
  because text
);
create index sessions_user on sessions (user_id, created_at);
create index sessions_end on sessions (coalesce(ended_at, expires_at));
create table refresh_tokens (
  token_sha256 bytea primary key check (length(token_sha256) = 32),
  session_id uuid not null references sessions on delete cascade,
  used_at timestamptz
);
create index refresh_tokens_session on refresh_tokens (session_id);

-- Attempts to log in, by name and by address (key); until: of the window, or of the lock-out.
create table login_attempts (
  key text primary key,
  n integer not null,
  until timestamptz not null
);
create index login_attempts_until on login_attempts (until);

-- Other services, which sign their tokens themselves.
create table service_clients (
  id bigint generated always as identity primary key,
  uuid uuid not null unique,
  name text not null unique,
  public_key text not null,
  grants jsonb not null check (jsonb_typeof(grants) = 'array'),
  disabled_at timestamptz,
  created_at timestamptz not null default opsjobs_now(),
  updated_at timestamptz not null default opsjobs_now()
);

-- What the last token of somebody of the platform gave him; only of those who launched or own something.
create table external_people (
  name text primary key,
  roles text[] not null,
  grants jsonb not null,
  person text,
  seen_at timestamptz not null default opsjobs_now()
);

-- A key has either a role, as before, or grants. user_id: the user whose key it is; without him it is none.
alter table api_keys alter column role drop not null;
alter table api_keys add column grants jsonb check (jsonb_typeof(grants) = 'array');
alter table api_keys add column person text;
alter table api_keys add column made_by text;
alter table api_keys add column made_by_kind text;
alter table api_keys add column user_id bigint references users on delete cascade;
alter table api_keys add constraint api_keys_may_something check (role is not null or grants is not null);
create index api_keys_user on api_keys (user_id) where user_id is not null;
