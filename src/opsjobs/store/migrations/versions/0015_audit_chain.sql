-- A row is written without a number; a moment later the sealer numbers it, without a gap, in the order in which rows became visible.
alter table audit_log
  add column seal bigint unique,
  add column hash bytea,
  add constraint audit_log_sealed check ((seal is null) = (hash is null) and seal > 0 and length(hash) = 32);
create index audit_log_unsealed on audit_log (id) where seal is null;
create index audit_log_at on audit_log (at);

-- Where the chain begins (what was before has been let go of) and where it ends.
create table audit_chain (
  one boolean primary key default true check (one),
  base_seal bigint not null default 0 check (base_seal >= 0),
  base_hash bytea not null default decode(repeat('00', 32), 'hex') check (length(base_hash) = 32),
  head_seal bigint not null default 0 check (head_seal >= base_seal),
  head_hash bytea not null default decode(repeat('00', 32), 'hex') check (length(head_hash) = 32)
);
insert into audit_chain default values;

-- Sealed once, from null; deleted only where the chain begins behind it. Everything else is refused, whoever asks.
create function opsjobs_audit_log_guard() returns trigger language plpgsql as $$
begin
  if tg_op = 'UPDATE' and old.seal is null and new.seal is not null then
    old.seal := new.seal;
    old.hash := new.hash;
    if old is not distinct from new then
      return new;
    end if;
  elsif tg_op = 'DELETE' and old.seal <= (select base_seal from audit_chain) then
    return old;
  end if;
  raise exception 'the audit log is append only: % is refused', tg_op using errcode = 'insufficient_privilege';
end $$;
create trigger audit_log_kept before update or delete on audit_log for each row execute function opsjobs_audit_log_guard();
create trigger audit_log_new before insert on audit_log for each row when (new.seal is not null)
  execute function opsjobs_audit_log_guard();
create trigger audit_log_whole before truncate on audit_log for each statement execute function opsjobs_audit_log_guard();

-- The chain only grows, and is let go of only from its beginning on.
create function opsjobs_audit_chain_guard() returns trigger language plpgsql as $$
begin
  if tg_op = 'UPDATE' and new.base_seal >= old.base_seal and new.head_seal >= old.head_seal then
    return new;
  end if;
  raise exception 'the chain of the audit log only grows: % is refused', tg_op using errcode = 'insufficient_privilege';
end $$;
create trigger audit_chain_kept before insert or update or delete on audit_chain for each row
  execute function opsjobs_audit_chain_guard();
create trigger audit_chain_whole before truncate on audit_chain for each statement
  execute function opsjobs_audit_chain_guard();

-- The one way in which rows leave: the oldest ones, sealed, written before `until`, at most so many. Gives the number of rows.
create function opsjobs_audit_retain(until timestamptz, most int) returns int language plpgsql as $$
declare
  kept audit_chain;
  last audit_log;
  gone int;
begin
  select * into kept from audit_chain for update;
  select l.* into last from audit_log l
    where l.seal > kept.base_seal and l.seal <= kept.base_seal + most and l.seal < coalesce(
      (select min(x.seal) from audit_log x where x.seal > kept.base_seal and x.seal <= kept.base_seal + most and x.at >= until),
      kept.base_seal + most + 1)
    order by l.seal desc limit 1;
  if last.seal is null then
    return 0;
  end if;
  update audit_chain set base_seal = last.seal, base_hash = last.hash;
  delete from audit_log where seal <= last.seal;
  get diagnostics gone = row_count;
  return gone;
end $$;
