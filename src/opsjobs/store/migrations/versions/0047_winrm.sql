-- winrm: scheme, authentication and trust, of targets of this transport only.
alter table targets add column winrm jsonb;
alter table targets drop constraint targets_transport_check;
alter table targets add constraint targets_transport_check
  check (transport in ('ssh', 'winrm', 'local'));
alter table targets add constraint targets_winrm_check
  check ((winrm is not null) = (transport = 'winrm'));
