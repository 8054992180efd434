-- Webhooks and notifications read the events of a new installation from its first one: the scheduler
-- may start later than the API, and be killed before it has stored where it began.
insert into delivery_sources (name, position)
select name, last from event_positions, (values ('webhooks'), ('notifications')) as s(name)
on conflict (name) do nothing;
