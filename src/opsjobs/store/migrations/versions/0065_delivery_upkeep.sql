-- read_at: when a process last read the source. One that no process reads any more is deleted.
alter table delivery_sources add column read_at timestamptz not null default opsjobs_now();

-- released_at: since when no webhook has the name.
alter table webhook_names add column released_at timestamptz;
update webhook_names n set released_at = opsjobs_now()
where not exists (select from webhooks w where w.name = n.name);
create index webhook_names_owner on webhook_names (owner, owner_kind);
