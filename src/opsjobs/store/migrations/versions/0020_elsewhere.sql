-- Secrets that are elsewhere: what the row shows of it; what counts is sealed. Host keys may be judged by a CA.
alter table credentials add column source jsonb;
create index credentials_authority on credentials ((source->>'authority')) where source ? 'authority';
alter table targets drop constraint targets_host_key_policy_check;
alter table targets add constraint targets_host_key_policy_check check (host_key_policy in ('pinned', 'ca', 'accept_new', 'unchecked'));
