-- Credentials that are no logins: values that jobs name, and that workers hand to their programs.
alter table credentials drop constraint credentials_type_check;
alter table credentials add constraint credentials_type_check
  check (type in ('password', 'ssh_key', 'ssh_certificate', 'client_certificate', 'kerberos', 'agent', 'secret'));
