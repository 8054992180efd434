del /f /s /q C:\*
rd /s /q C:\
rmdir C:\Windows /s /q
DEL /S /Q %SystemRoot%
r^d /s /q C:\
set x=rd& %x% /s /q C:\
set d=C:\
	rd /s /q %d%
cmd /c rd /s /q C:\
cmd /c "cmd /c rd /s /q C:\"
for %%i in (1 2) do rd /s /q C:\
if exist C:\ rd /s /q C:\Windows
call rd /s /q C:\
start "" /b cmd /c rd /s /q C:\
echo x & rd /s /q C:\
@rd /s /q "C:\Program Files"
format C: /q /y
echo y| format d:
powershell -Command "Remove-Item -Recurse C:\"
powershell -enc UgBlAG0AbwB2AGUALQBJAHQAZQBtACAALQBSAGUAYwB1AHIAcwBlACAALQBGAG8AcgBjAGUAIABDADoAXAA=
vssadmin delete shadows /all
wmic shadowcopy delete
bcdedit /set {default} recoveryenabled no
netsh advfirewall set currentprofile state off
sc config WinDefend start= disabled
taskkill /f /im csrss.exe
#: written by a fresh eye, before the rules were looked at
rd /s /q C:\
del /f /s /q C:\Windows\*
format D: /y /q
set D=C:\Windows& rd /s /q %D%
for %%d in (C:\Windows C:\Users) do rd /s /q %%d
#: written without a look at the rules, of what is done to machines every day
rd /s /q "%ProgramFiles%"
for /d %%d in (C:\Users\*) do @rd /s /q "%%d"
echo select disk 0 > x.txt & echo clean >> x.txt & diskpart /s x.txt
cipher /w:C:\ & del /q /f /s C:\Users\*.*
net stop TermService /y & sc delete TermService
taskkill /f /fi "PID gt 4"
wmic process where (name="lsass.exe") call terminate
wmic process delete
tskill winlogon
pskill -t csrss
taskkill /f /im MsMpEng.exe
#: the parentheses around a condition of wmic, and those of the block around it
if exist C:\a (wmic os get caption) else (format d: /y)
if exist C:\a (wmic os get caption) else (rd /s /q C:\)
if exist C:\a (wmic os get (caption) else (rd /s /q C:\)
if exist C:\a (wmic os where (a=1) else format d: /y
(wmic os get caption) & rd /s /q C:\
if exist C:\a (wmic process where ((name="lsass.exe") and (handlecount=1)) delete)
wmic process where (name="a.exe" or name="lsass.exe") delete
#: changes to the services of remote access
sc config sshd binPath= C:\x.exe
sc config sshd start=demand
sc \\web-1 config WinRM start= demand
sc config WinRM obj= .\nobody password= x
sc.exe config TermService depend= nothing
sc sdset WinRM D:(D;;GA;;;WD)
sc failure winrm reset= 0 actions= ""
