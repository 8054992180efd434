-- Names and hosts with their numbers filled up with zeros, as natural_key of store/paging.py makes
-- them: web-2 is before web-10. Stored, because 20,000 of them take 70 ms.
alter table targets
  add column name_order text not null generated always as (left(regexp_replace(regexp_replace(
    name, '([0-9]+)', '000000000000\1', 'g'), '[0-9]*([0-9]{12})', '\1', 'g'), 200)) stored,
  add column host_order text not null generated always as (left(regexp_replace(regexp_replace(
    host, '([0-9]+)', '000000000000\1', 'g'), '[0-9]*([0-9]{12})', '\1', 'g'), 200)) stored;
create index targets_by_name on targets (name_order, id);
create index targets_by_host on targets (host_order, id);
-- The few that are in maintenance.
create index target_slots_held on target_slots (target_id) where held_until is not null;
