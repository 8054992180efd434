-- NULL: a key that was made before; its maker alone counts.
alter table api_keys add column makers text[];
alter table service_clients add column makers text[] not null default '{}';
update service_clients c set makers = array(
  select distinct case m.kind when 'api_key' then m.name else m.kind || '/' || m.name end
  from (values (c.made_by_kind, c.made_by), (c.answers_to_kind, c.answers_to)) as m(kind, name) where m.name is not null);
