-- The days that have no partition: today and the given number of days ahead, then days whose rows are in the default partition.
create function opsjobs_wanted_partitions(days_ahead integer) returns setof date language sql stable as $$
  with recursive today as materialized (
    select (opsjobs_now() at time zone 'UTC')::date as day
  ), astray as (
    select min(log_day) as day from execution_log_default
    union all
    select (select min(d.log_day) from execution_log_default d where d.log_day > a.day) from astray a where a.day is not null
  ), wanted as (
    select t.day + n as day from today t, generate_series(0, days_ahead) n
    where not exists (
      select from pg_inherits i join pg_class c on c.oid = i.inhrelid
      where i.inhparent = 'execution_log'::regclass and c.relname = 'execution_log_' || to_char(t.day + n, 'YYYYMMDD'))
    union
    select day from astray where day is not null
  )
  select w.day from wanted w, today t order by w.day < t.day, w.day $$;

-- Makes the partition of a day, with the rows of that day that are in the default partition. Rows of a day that was dropped have
-- come too late and are deleted. True if there is a partition now that was not there.
create function opsjobs_make_partition(day date) returns boolean language plpgsql as $$
declare
  name text := 'execution_log_' || to_char(day, 'YYYYMMDD');
begin
  perform pg_advisory_xact_lock(hashtext('opsjobs_make_partitions'));
  if exists (select from pg_inherits where inhparent = 'execution_log'::regclass and inhrelid = to_regclass(name)) then
    return false;
  end if;
  if exists (select from dropped_log_days d where d.log_day = day) then
    delete from execution_log_default d where d.log_day = day;
    return false;
  end if;
  -- Readers go on until the attaching. Indexes come before it, so that it has none to build.
  lock table execution_log_default in exclusive mode;
  execute format('create table %I (like execution_log including defaults including storage including compression '
                 'including constraints including indexes)', name);
  execute format('with moved as (delete from execution_log_default where log_day = %L returning *) '
                 'insert into %I select * from moved', day, name);
  execute format('alter table execution_log attach partition %I for values from (%L) to (%L)', name, day, day + 1);
  return true;
end $$;

-- What processes of the release before call: a day that fails does not keep the others from being made.
create or replace function opsjobs_make_partitions(days_ahead integer) returns integer language plpgsql as $$
declare
  wanted date;
  made integer := 0;
begin
  for wanted in select w.day from opsjobs_wanted_partitions(days_ahead) as w(day) loop
    begin
      made := made + opsjobs_make_partition(wanted)::integer;
    exception when others then
      raise warning 'no partition of the log for %: %', wanted, sqlerrm;
    end;
  end loop;
  return made;
end $$;
