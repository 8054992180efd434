-- Group the targets of an execution by equal results.
--
-- Targets are grouped if status, exit code, error, the first 64 KiB of stdout and its length are
-- equal, and for failed actions the first 64 KiB of stderr. Of one `stream` only that is compared.
-- With `normalise` the texts are compared after what differs on every machine was left out, and
-- lengths are not. Two stages keep memory small: the bytes of one run at a time are reduced to a
-- hash, and only hashes are grouped. So these stages are materialized, and names are looked up
-- run by run: a join would keep all the bytes and spill. SHA-256 would take three quarters of the
-- time; this hash has a secret salt, so that no target can make its output look like another one's.
with run as materialized (
  select id, position, target_id, target_name, target_host, status, exit_code, error_code
  from target_runs
  where execution_id = :'execution' and (:'running' or finished_at is not null)
), counting as materialized (
:counting
), head as materialized (
  select target_run_id, case when :'normalise' then (
      select hash_record_extended(row(opsjobs_generalize(
        substring(head from 1 for :'generalized'), r.target_name, r.target_host)), :'salt')
      from target_runs r where r.id = target_run_id)
    else hash_record_extended(row(head), :'salt') end as hash
  from (:stdout_heads) h
), complaint as materialized (
  select target_run_id, case when :'normalise' then (
      select hash_record_extended(row(opsjobs_generalize(
        substring(head from 1 for :'generalized'), r.target_name, r.target_host)), :'salt')
      from target_runs r where r.id = target_run_id)
    else hash_record_extended(row(head), :'salt') end as hash
  from (:stderr_heads) h
), size as (
  select target_run_id, sum(bytes)::bigint as bytes, sum(err_bytes)::bigint as err_bytes,
         max(exit_code) as exit_code, max(status) as status
  from counting group by target_run_id
), compared as (
  select run.id, run.position, run.target_id, run.target_name, run.target_host,
         case when :'action'::text is null then run.status else size.status end as status,
         case when :'action'::text is null then run.exit_code else size.exit_code end as exit_code,
         run.error_code, coalesce(size.bytes, 0) as bytes,
         coalesce(size.err_bytes, 0) as err_bytes, head.hash as head,
         case when :'normalise' then null
              when :'stream'::text = 'stderr' then coalesce(size.err_bytes, 0)
              else coalesce(size.bytes, 0) end as size,
         complaint.hash as complaint
  from run left join head on head.target_run_id = run.id
  left join complaint on complaint.target_run_id = run.id
  left join size on size.target_run_id = run.id
  where :'action'::text is null or size.target_run_id is not null
), grouped as (
  select status, exit_code, size, error_code, head, complaint, count(*) as count,
         (array_agg(id order by position))[1] as id,
         (array_agg(bytes order by position))[1] as bytes,
         (array_agg(err_bytes order by position))[1] as err_bytes,
         array_agg(id order by position) as runs,
         (array_agg(target_id order by position))[1:coalesce(:'members'::int, 1000000)] as ids,
         (array_agg(target_name order by position))[1:coalesce(:'members'::int, 1000000)] as names,
         (array_agg(target_host order by position))[1:coalesce(:'members'::int, 1000000)] as hosts
  from compared group by 1, 2, 3, 4, 5, 6
)
select g.*, r.error_message from grouped g join target_runs r on r.id = g.id;
