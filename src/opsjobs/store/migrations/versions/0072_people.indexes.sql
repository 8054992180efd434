create index sessions_person on sessions (issuer, subject) where subject is not null;
