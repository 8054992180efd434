-- Names of users, API keys, services and targets that are gone, or go by another name now. What these left is known by their names
-- (files, schedules, executions; jobs that list a target), so who gets such a name gets all of that. labels: of a target, at last.
create table spent_names (
  noun text not null check (noun in ('user', 'api_key', 'service', 'target')),
  name text not null,
  spent_at timestamptz not null default opsjobs_now(),
  labels jsonb not null default '{}',
  primary key (noun, name)
);

-- By triggers, so that a process of the release before, and a delete that takes others along, leave it too.
create function opsjobs_spend_name() returns trigger language plpgsql as $$
begin
  insert into spent_names (noun, name, labels) values (tg_argv[0], old.name, coalesce(to_jsonb(old) -> 'labels', '{}'))
  on conflict (noun, name) do update set spent_at = opsjobs_now(), labels = excluded.labels;
  return null;
end $$;
create trigger users_spend_name after delete on users for each row execute function opsjobs_spend_name('user');
create trigger api_keys_spend_name after delete on api_keys for each row execute function opsjobs_spend_name('api_key');
create trigger service_clients_spend_name after delete on service_clients
  for each row execute function opsjobs_spend_name('service');
create trigger targets_spend_name after delete on targets for each row execute function opsjobs_spend_name('target');
create trigger targets_spend_old_name after update of name on targets for each row when (old.name is distinct from new.name)
  execute function opsjobs_spend_name('target');
