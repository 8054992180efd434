-- What was launched before there was the trigger; apart from it, so that no table is locked meanwhile.
insert into execution_labels (key, value, execution_id)
select l.key, l.value, s.execution_id from execution_specs s cross join jsonb_each_text(s.labels) l where s.labels <> '{}'
on conflict do nothing;
