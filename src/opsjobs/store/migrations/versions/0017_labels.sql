-- The labels of a job are its tags: `env=staging` is a label with a value, `web` one without; of two with one name the later counts.
-- model/access.py labels_of says the same.
create function opsjobs_labels(tags text[]) returns jsonb language sql immutable parallel safe as $$
  select coalesce(jsonb_object_agg(split_part(t.tag, '=', 1),
           case when strpos(t.tag, '=') > 0 then substr(t.tag, strpos(t.tag, '=') + 1) else '' end order by t.nth), '{}')
  from unnest(tags) with ordinality as t(tag, nth)
$$;

-- What all targets of an execution had in common at its launch. One from before has none: only who may see all sees it.
alter table execution_specs add column labels jsonb not null default '{}';

-- A name and its kind are one identity. Until now there were API keys only.
alter table execution_specs add column requested_by_kind text not null default 'api_key';
-- Not valid: what is there need not be read to be right.
alter table execution_specs add constraint execution_specs_requested_by_kind
  check (requested_by_kind in ('api_key', 'user', 'service', 'external', 'system')) not valid;
alter table job_schedules add column owner_kind text not null default 'api_key'
  check (owner_kind in ('api_key', 'user', 'service', 'external', 'system'));
alter table files add column created_by_kind text not null default 'api_key'
  check (created_by_kind in ('api_key', 'user', 'service', 'external', 'system'));
