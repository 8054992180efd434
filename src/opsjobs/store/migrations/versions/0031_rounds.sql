-- child: it is part of an execution that may wait for it, so it passes those who only wait.
alter table exclusive_locks add column child boolean not null default false;
update exclusive_locks l set child = true from execution_specs s where s.execution_id = l.execution_id and s.triggered_by = 'workflow';
create index exclusive_locks_children on exclusive_locks (name, execution_id) where not granted and child;

-- Whether an execution and all that is part of it have ended: its names go with the last of the family.
create function opsjobs_family_over(execution bigint) returns boolean language sql stable as $$
  with recursive line as (
    select execution as id
    union all
    select s.execution_id from line join execution_specs s on s.parent_id = line.id and s.triggered_by = 'workflow'
  )
  select not exists (select from line join job_executions e on e.id = line.id where e.finished_at is null) $$;

-- Grants a request if nobody holds any of its names.
create function opsjobs_grant_names(candidate bigint) returns boolean language plpgsql set enable_seqscan = off as $$
begin
  update exclusive_locks set granted = true where execution_id = candidate and not exists (
    select from exclusive_locks mine join exclusive_locks held on held.name = mine.name and held.granted
    where mine.execution_id = candidate and held.execution_id <> candidate);
  return found;
end $$;

-- As before, but what it costs grows with the names that are held or waited for, not with who waits: of each free name those are
-- looked at that come first, children before others. ended: executions whose requests go now. patient: false: where another process is
-- at it, nothing is done.
drop function opsjobs_pass_names();
create function opsjobs_pass_names(ended bigint[] default '{}', patient boolean default true) returns setof bigint
  language plpgsql set enable_seqscan = off as $$
declare
  wanted text;
  candidate bigint;
begin
  if not exists (select from exclusive_locks) then
    return;
  end if;
  if patient then
    perform pg_advisory_xact_lock(hashtext('opsjobs_pass_names'));
  elsif not pg_try_advisory_xact_lock(hashtext('opsjobs_pass_names')) then
    return;
  end if;
  delete from exclusive_locks l using job_executions e
  where (l.granted or l.execution_id = any(ended)) and e.id = l.execution_id and e.finished_at is not null
    and opsjobs_family_over(l.execution_id);
  for turn in 1 .. 2 loop
    wanted := '';
    loop
      select min(l.name) into wanted from exclusive_locks l where not l.granted and l.name > wanted;
      exit when wanted is null;
      continue when exists (select from exclusive_locks h where h.name = wanted and h.granted);
      if turn = 1 then
        for candidate in
          select l.execution_id from exclusive_locks l join job_executions e on e.id = l.execution_id
          where l.name = wanted and not l.granted and l.child and e.finished_at is null order by l.execution_id
        loop
          if opsjobs_grant_names(candidate) then
            return next candidate;
            exit;
          end if;
        end loop;
      else
        loop
          select l.execution_id into candidate from exclusive_locks l
          where l.name = wanted and not l.granted order by l.execution_id limit 1;
          exit when candidate is null or not opsjobs_family_over(candidate);
          delete from exclusive_locks where execution_id = candidate;
        end loop;
        if candidate is not null and not exists (
            select from exclusive_locks mine
            where mine.execution_id = candidate and (mine.child or exists (
              select from exclusive_locks o where o.name = mine.name and not o.granted and o.execution_id < candidate)))
          and opsjobs_grant_names(candidate) then
          return next candidate;
        end if;
      end if;
    end loop;
  end loop;
end $$;
