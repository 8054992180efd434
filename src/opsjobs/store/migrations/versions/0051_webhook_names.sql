-- The owner of each name that a webhook has had. Rules of notifications name webhooks: after a webhook
-- is deleted or renamed, its name stays with the owner, so that no other receives what was meant for it.
create table webhook_names (
  name text primary key,
  owner text not null,
  owner_kind text not null
);
insert into webhook_names (name, owner, owner_kind) select name, owner, owner_kind from webhooks;
