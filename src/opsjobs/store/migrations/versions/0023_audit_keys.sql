-- Each sealed row is signed by a key that is not in the database, and so is the row that says where the chain begins and ends.
alter table audit_log add column key_id text;
alter table audit_log add column mac bytea;
alter table audit_log add constraint audit_log_signed
  check ((key_id is null) = (mac is null) and (mac is null or seal is not null and length(mac) = 32)) not valid;

-- anchor_seal: up to there rows were sealed before there were signatures. anchor_id: the highest id of a row of
-- retention that waited to be sealed then; 0 where none did.
alter table audit_chain add column anchor_seal bigint not null default 0;
alter table audit_chain add column anchor_id bigint not null default 0;
alter table audit_chain add column key_id text;
alter table audit_chain add column mac bytea check (length(mac) = 32);

-- As before, but what comes without a signature is not written, and no error: it is the sealer of a release before this one, and
-- leaves the row to ours.
create or replace function opsjobs_audit_log_guard() returns trigger language plpgsql as $$
begin
  if tg_op = 'UPDATE' and old.seal is null and new.seal is not null then
    old.seal := new.seal;
    old.hash := new.hash;
    old.key_id := new.key_id;
    old.mac := new.mac;
    if old is not distinct from new then
      return case when new.mac is not null then new end;
    end if;
  elsif tg_op = 'DELETE' and old.seal <= (select base_seal from audit_chain) then
    return old;
  end if;
  raise exception 'the audit log is append only: % is refused', tg_op using errcode = 'insufficient_privilege';
end $$;

create or replace function opsjobs_audit_chain_guard() returns trigger language plpgsql as $$
begin
  if tg_op = 'UPDATE' and new.base_seal >= old.base_seal and new.head_seal >= old.head_seal then
    if new.mac is distinct from old.mac then
      return new;
    elsif new.base_seal = old.base_seal then
      return null;
    end if;
  end if;
  raise exception 'the chain of the audit log only grows: % is refused', tg_op using errcode = 'insufficient_privilege';
end $$;

-- A release before this one lets go of nothing more: it cannot sign where the chain begins then.
create or replace function opsjobs_audit_retain(until timestamptz, most int) returns int language sql as $$ select 0 $$;
