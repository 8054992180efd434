-- What is known of those that went before: what the audit log tells, and who left something. It may take a while, so it comes in a
-- transaction in which no other table is locked (see runner); `thing` is said because there is an index of it.
insert into spent_names (noun, name, spent_at, labels)
select distinct on (thing, thing_name) thing, thing_name, at, coalesce(before -> 'labels', '{}') from audit_log
where thing in ('user', 'api_key', 'service', 'target')
  and action in ('user.deleted', 'api_key.deleted', 'service.deleted', 'target.deleted') and thing_name is not null
order by thing, thing_name, at desc
on conflict do nothing;
insert into spent_names (noun, name)
select 'api_key', key from audit_log, jsonb_array_elements_text(before -> 'api_keys') as key
where thing = 'user' and action = 'user.deleted' and jsonb_typeof(before -> 'api_keys') = 'array'
on conflict do nothing;
insert into spent_names (noun, name)
select kind, name from (
  select created_by_kind, created_by from files union select owner_kind, owner from job_schedules
) as left_something(kind, name)
where (kind = 'api_key' and not exists (select from api_keys k where k.name = left_something.name))
  or (kind = 'user' and not exists (select from users u where u.name = left_something.name))
  or (kind = 'service' and position('/' in name) = 0
    and not exists (select from service_clients s where s.name = left_something.name))
on conflict do nothing;

-- Machines come and go by the thousand: their names are let go of with the executions of their time. Those of people are kept.
create index spent_names_of_targets on spent_names (spent_at) where noun = 'target';
