-- Write what the Target Service tells of targets: update the rows that differ, insert new ones.
-- What is set here (credential, host keys, slots, jump host, …) stays. A label may name the zone, and
-- a credential, which is used if none is set here.
with given as materialized (
  select g.*, c.id as label_credential_id
  from jsonb_to_recordset(:'rows'::jsonb) as g(
    external_id text, id bigint, uuid uuid, name text, host text, port integer, transport text,
    platform text, labels jsonb, groups text[], zone text, credential text, winrm jsonb)
  left join credentials c on c.name = g.credential
), told as (
  update targets t set synced_at = :'read_at'::timestamptz from given g
  where t.external_id = g.external_id
    and (t.name, t.host, t.port, t.transport, t.platform, t.labels, t.groups, t.zone,
         t.label_credential_id, t.gone_at)
      is not distinct from (g.name, g.host, g.port, g.transport, g.platform, g.labels, g.groups,
         coalesce(g.zone, t.zone), g.label_credential_id, null::timestamptz)
    and :'touch'
), changed as (
  update targets t set name = g.name, host = g.host, port = g.port, transport = g.transport,
    platform = g.platform, labels = g.labels, groups = g.groups, zone = coalesce(g.zone, t.zone),
    winrm = case when g.transport = 'winrm' then coalesce(t.winrm, g.winrm) end,
    label_credential_id = g.label_credential_id, gone_at = null,
    synced_at = :'read_at'::timestamptz, version = t.version + 1, updated_at = opsjobs_now()
  from given g where t.external_id = g.external_id
    and (t.name, t.host, t.port, t.transport, t.platform, t.labels, t.groups, t.zone,
         t.label_credential_id, t.gone_at)
      is distinct from (g.name, g.host, g.port, g.transport, g.platform, g.labels, g.groups,
         coalesce(g.zone, t.zone), g.label_credential_id, null::timestamptz)
  returning t.id
), made as (
  insert into targets (id, uuid, external_id, name, host, port, transport, platform, labels, groups,
    label_credential_id, host_key_policy, zone, slots, winrm, synced_at)
  overriding system value
  select coalesce(g.id, nextval(pg_get_serial_sequence('targets', 'id'))), g.uuid, g.external_id,
    g.name, g.host, g.port, g.transport, g.platform, g.labels, g.groups,
    g.label_credential_id,
    :'host_key_policy', coalesce(g.zone, 'default'), :'slots', g.winrm,
    :'read_at'::timestamptz
  from given g where not exists (select from targets t where t.external_id = g.external_id)
  returning id
)
select (select count(*) from changed) as changed, (select count(*) from made) as made,
       (select max(id) from made) as highest;
