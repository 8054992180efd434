-- Credentials of two more types; where one may be used (empty: anywhere), and when one was used last.
alter table credentials drop constraint credentials_type_check;
alter table credentials add constraint credentials_type_check
  check (type in ('password', 'ssh_key', 'ssh_certificate', 'client_certificate', 'kerberos', 'agent'));
alter table credentials add column bound_targets text[] not null default '{}';
alter table credentials add column bound_groups text[] not null default '{}';
alter table credentials add column bound_jobs bigint[] not null default '{}';
alter table credentials add column last_used_at timestamptz;

-- Executions with secret parameters, for the rotation of the keys that seal them.
create index execution_specs_sealed on execution_specs (execution_id) where parameters @? '$.*.sealed';
