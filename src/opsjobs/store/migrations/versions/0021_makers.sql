-- The service or the platform's person who made a key, by whichever way: it may no more than that one may now.
alter table api_keys add column answers_to text;
alter table api_keys add column answers_to_kind text;
update api_keys set answers_to = made_by, answers_to_kind = made_by_kind where made_by_kind in ('external', 'service');

-- When (Unix seconds) the token was issued that the row tells of; an older one changes nothing.
alter table external_people add column issued_at double precision;
