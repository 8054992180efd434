-- The start of what each of these attempts wrote: stderr, or stdout if there is none.
select distinct on (target_run_id) target_run_id, head from (
  select l.target_run_id, l.stream,
    substring(string_agg(l.data, ''::bytea order by l.start_offset) from 1 for :'bytes'::int)
      as head
  from execution_log l
  join unnest(:'runs'::bigint[], :'actions'::text[], :'attempts'::int[]) as w(run, action, attempt)
    on l.target_run_id = w.run and l.action = w.action and l.attempt = w.attempt
  where l.log_day = :'log_day' and l.execution_id = :'execution' and l.event = 'output'
    and l.data is not null and l.start_offset < :'bytes'::bigint
  group by 1, 2
) heads
where length(head) > 0 order by target_run_id, stream;
