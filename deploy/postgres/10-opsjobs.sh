#!/bin/sh
# Makes the role and the database of the service, when the volume is new. The role is no superuser.
set -eu
psql --set ON_ERROR_STOP=1 --username postgres --set password="$JOB_DB_PASSWORD" <<'SQL'
create role opsjobs login password :'password';
create database opsjobs owner opsjobs template template0 encoding 'UTF8';
SQL
