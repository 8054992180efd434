alter table approval_decisions add column decider jsonb;
