-- A session with cookie_sha256 is one of a browser: the cookie is its only proof. It belongs to a user,
-- or to an API key, by the hash of the key's token: it ends with the key, and with a change of its token.
-- confirmed_at: when the caller last proved who it is by more than the cookie.
alter table sessions
  alter column user_id drop not null,
  add column key_sha256 bytea check (length(key_sha256) = 32),
  add column cookie_sha256 bytea unique check (length(cookie_sha256) = 32),
  add column last_used_at timestamptz not null default opsjobs_now(),
  add column confirmed_at timestamptz not null default opsjobs_now(),
  add column address text,
  add column agent text,
  add check (num_nonnulls(user_id, key_sha256) = 1),
  add check (cookie_sha256 is not null or user_id is not null);
create index sessions_key on sessions (key_sha256, created_at) where key_sha256 is not null;

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
