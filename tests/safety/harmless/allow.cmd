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
#: written by a fresh eye, before the rules were looked at
@echo off
	setlocal
	set BACKUP=D:\Backup\%DATE:~-4%
	if not exist "%BACKUP%" mkdir "%BACKUP%"
	robocopy C:\Data "%BACKUP%" /E /R:1
forfiles /p C:\Logs /s /m *.log /d -30 /c "cmd /c del @path"
sc stop Spooler & timeout /t 3 & sc start Spooler
for /f "tokens=5" %%a in ('netstat -ano ^| findstr :8080') do @echo %%a
msiexec /i C:\Temp\app.msi /qn /l*v C:\Temp\app.log
schtasks /create /tn Cleanup /tr "C:\Scripts\cleanup.bat" /sc daily /st 03:00
wmic logicaldisk get caption,freespace,size
if "%1"=="" (echo usage: %0 name & exit /b 2)
	echo hello %1
rd /s /q C:\Build\out & mkdir C:\Build\out
net use Z: \\nas\share /persistent:no & copy Z:\app.zip C:\Temp\ & net use Z: /delete
#: written without a look at the rules, of what is done to machines every day
dir /s /b C:\inetpub\logs
del /q "%TEMP%\app-*.tmp"
robocopy C:\build D:\app\current /MIR /R:1 /W:1
rd /s /q D:\app\releases\39
sc query W3SVC
tasklist /fi "imagename eq w3wp.exe"
schtasks /query /tn Backup
for %%f in (*.log) do @echo %%f
if not exist D:\app mkdir D:\app
xcopy /e /y config D:\app\config
forfiles /p D:\logs /m *.log /d -30 /c "cmd /c del @path"
wmic process where name="w3wp.exe" get processid,commandline
sc qc WinRM
sc config sshd start= delayed-auto
wmic process where (name="w3wp.exe" and processid=%1) get commandline
if exist C:\a (wmic os get caption) else (echo none)
sc config WinRM start= auto
sc config app binPath= C:\app\app.exe start= demand
sc sdshow WinRM
