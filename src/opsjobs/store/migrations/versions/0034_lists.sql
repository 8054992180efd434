-- The labels of executions, once more, so that the newest of those that have one are found in order. Written by a trigger, so that
-- processes of the release before write them, too.
create table execution_labels (
  key text not null,
  value text not null,
  execution_id bigint not null references job_executions on delete cascade,
  primary key (execution_id, key)
);
create index execution_labels_walk on execution_labels (md5(key || '=' || value), execution_id);
create function opsjobs_label_execution() returns trigger language plpgsql as $$
begin
  insert into execution_labels (key, value, execution_id)
  select l.key, l.value, s.execution_id from written s cross join jsonb_each_text(s.labels) l where s.labels <> '{}';
  return null;
end $$;
create trigger execution_specs_label after insert on execution_specs referencing new table as written
  for each statement execute function opsjobs_label_execution();
