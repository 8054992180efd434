echo rd /s /q C:\
rem format C:
dir C:\
type C:\Windows\win.ini
copy a.txt b.txt
xcopy /e /i C:\App D:\Backup
del C:\Temp\x.txt
mkdir C:\App
ipconfig /all
tasklist | findstr nginx
net start
net start Spooler
sc query WinDefend
set X=1& echo %X%
for %%i in (1 2 3) do echo %%i
if exist C:\x echo yes
powershell -Command "Get-Process"
ping -n 3 db-1
where python
ver
