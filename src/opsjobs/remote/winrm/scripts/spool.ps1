# opsjobs-helper spool 1
# Durable runs: started at most once, followed from any byte, ended with a proof.
#
# The files of a run, in a folder of its name below .opsjobs\runs of the user:
#   start    created exclusively by whoever starts the run. Holds the digest of what runs.
#   keeper   created exclusively by the process that starts the program and waits for its end.
#            Holds <process id> <its start time> <boot>.
#   void     the run may not begin. The keeper creates `keeper` and then looks for `void`; whoever
#            voids creates `void` and then looks for `keeper`: one of the two sees the other.
#   program  <process id> <its start time> <boot> of the program
#   1 2      the output
#   cause    why the program is being ended: cancel, timeout or output_limit
#   left     <process id> <its start time> <boot> of each process that a cancel could not end; the next
#            cancel ends them, or says that they live
#   ending   room for the end, so that it is recorded on a full disk, too
#   end      <exit code, or n: never began> <cause>; moved into its place as a whole
#   order, data, spool.ps1, variables, input, script*, secrets
#            what is needed until the end, then removed
#
# The script, the secrets and the input follow the parameters as bytes, and are kept in `data`, so that
# no cmdlet is given them: a host may log what cmdlets are given.
#
# The keeper is started by WMI, because what a WinRM shell starts ends with the shell.
# Each response is a record: the nonce, a word, its values and a newline. `1` and `2` are followed
# by bytes of that output stream, up to the next record. `U`: how the run stands cannot be seen now,
# as a file or a process may not be read.
param($stdin, $p)
$ErrorActionPreference = 'Stop'
$ProgressPreference = 'SilentlyContinue'
$root = $p.root  # of a keeper: WMI may give it another profile
if (-not $root) { $root = [IO.Path]::Combine([Environment]::GetFolderPath('UserProfile'), '.opsjobs') }
$runs = [IO.Path]::Combine($root, 'runs')
$stdout, $script:boot, $script:cause = $null, $null, $null
$left = @{}  # the processes that could not be ended: id and start time
$slack = 100000  # 10 ms, in ticks: WMI rounds the times of processes
$steps = 100000000  # 10 s

function Say($words) {
    $bytes = [Text.Encoding]::ASCII.GetBytes($p.nonce + ' ' + $words + "`n")
    $stdout.Write($bytes, 0, $bytes.Length)
    $stdout.Flush()
}

# --- files

# Creates a file with this text. False if there is one: exactly one caller gets true. Throws if it
# cannot be written; then it is not there.
function New-Mark($path, $text) {
    try {
        $file = [IO.File]::Open($path, 'CreateNew', 'Write', 'None')
    } catch {
        if ([IO.File]::Exists($path)) { return $false }
        throw
    }
    try {
        $bytes = [Text.Encoding]::ASCII.GetBytes($text)
        $file.Write($bytes, 0, $bytes.Length)
        $file.Flush()
    } catch {
        $file.Dispose()
        [IO.File]::Delete($path)
        throw
    }
    $file.Dispose()
    return $true
}

# The same for a file that is never seen without its text.
function Move-Mark($path, $text) {
    $other = $path + '.' + [Guid]::NewGuid().ToString('N')
    [IO.File]::WriteAllText($other, $text)
    try {
        [IO.File]::Move($other, $path)
        return $true
    } catch {
        [IO.File]::Delete($other)
        if ([IO.File]::Exists($path)) { return $false }
        throw
    }
}

# The words of a file; nothing if it is not there. Throws if that cannot be known. A file that is held
# open, by its writer or by a virus scanner, is tried again for a second.
function Read-Mark($path) {
    for ($turn = 0; $true; $turn++) {
        try {
            return @([IO.File]::ReadAllText($path).TrimEnd().Split(' '))
        } catch [IO.FileNotFoundException], [IO.DirectoryNotFoundException] {
            return @()
        } catch {
            if ($turn -ge 50) { throw }
        }
        Start-Sleep -Milliseconds 20
    }
}

# True if the file is there. Throws if that cannot be known, for which Exists returns false.
function Test-Mark($path) {
    try {
        [void][IO.File]::GetAttributes($path)
        return $true
    } catch [IO.FileNotFoundException], [IO.DirectoryNotFoundException] {
        return $false
    }
}

# Opens a file for this process alone, once no other one has it open.
function Open-Alone($path) {
    for ($turn = 0; $true; $turn++) {
        try {
            return [IO.File]::Open($path, 'OpenOrCreate', 'ReadWrite', 'None')
        } catch {
            if ($turn -ge 100) { throw }
        }
        Start-Sleep -Milliseconds 20
    }
}

# Only this user and the system may read the folder.
function New-Folder($path) {
    if ([IO.Directory]::Exists($path)) { return }
    $rights = New-Object Security.AccessControl.DirectorySecurity
    $rights.SetAccessRuleProtection($true, $false)
    $me = [Security.Principal.WindowsIdentity]::GetCurrent().User
    $system = New-Object Security.Principal.SecurityIdentifier 'S-1-5-18'
    foreach ($who in $me, $system) {
        $rule = New-Object Security.AccessControl.FileSystemAccessRule ($who, 'FullControl', 'ContainerInherit,ObjectInherit', 'None', 'Allow')
        $rights.AddAccessRule($rule)
    }
    $made = New-Item -ItemType Directory -Path $path -Force
    Set-Acl -Path $made.FullName -AclObject $rights
}

function Remove-Folder($path) {
    if ([IO.Directory]::Exists($path)) {
        try { [IO.Directory]::Delete($path, $true) } catch { }
    }
}

function Remove-Inputs($folder) {
    foreach ($name in 'order', 'data', 'spool.ps1', 'variables', 'input') {
        try { [IO.File]::Delete([IO.Path]::Combine($folder, $name)) } catch { }
    }
    try {
        foreach ($file in [IO.Directory]::GetFiles($folder, 'script*')) { [IO.File]::Delete($file) }
    } catch { }
    Remove-Folder ([IO.Path]::Combine($folder, 'secrets'))
}

# --- processes

# The name of this boot. LastBootUpTime moves when the clock is set. So the host keeps the name in a
# file, with the time that was seen last, and a process that lives as long as the host. If the time has
# moved, that process tells whether it is the same boot; if it may not be seen, a step of 10 s is one.
function Get-Boot {
    if ($script:boot) { return $script:boot }
    $system = Get-CimInstance -ClassName Win32_OperatingSystem
    $now = $system.LastBootUpTime.ToUniversalTime().Ticks
    $file = Open-Alone ([IO.Path]::Combine($root, 'boot'))
    try {
        $bytes = New-Object byte[] 128
        $text = [Text.Encoding]::ASCII.GetString($bytes, 0, $file.Read($bytes, 0, $bytes.Length))
        $name, $seen, $witness = $now, $now, $null
        if ($text -match '^(\d+) (\d+) (\S+) *$') {
            $name, $seen, $witness = $Matches[1], [long]$Matches[2], $Matches[3]
        }
        $moved = [Math]::Abs($now - $seen)
        if (-not $witness -or $moved -gt $steps / 10) {
            $here = Get-Witness
            $known = $here -ne '-' -and $witness -and $witness -ne '-'
            if (($known -and $here -ne $witness) -or (-not $known -and $moved -gt $steps)) { $name = $now }
            $witness = $here
        }
        $bytes = [Text.Encoding]::ASCII.GetBytes("$name $now $witness".PadRight(128))
        [void]$file.Seek(0, 'Begin')
        $file.Write($bytes, 0, $bytes.Length)
    } finally {
        $file.Dispose()
    }
    $script:boot = [string]$name
    return $script:boot
}

# The id and the start time of a process that every boot starts anew; - if it may not be seen.
function Get-Witness {
    try {
        $query = "select ProcessId, CreationDate from Win32_Process where Name = 'services.exe'"
        $found = @(Get-CimInstance -Query $query)[0]
        return "$($found.ProcessId).$($found.CreationDate.ToUniversalTime().Ticks)"
    } catch {
        return '-'
    }
}

# True if a process was started at this time (in ticks), as closely as WMI tells it.
function Test-Moment($moment, $started) {
    return [Math]::Abs($moment.ToUniversalTime().Ticks - [long]$started) -le $slack
}

# True if the process lives: an id may be that of another process by now. Throws if that cannot be known.
function Test-Alive($id, $started) {
    try {
        $process = [Diagnostics.Process]::GetProcessById($id)
        return -not $process.HasExited -and (Test-Moment $process.StartTime $started)
    } catch [ArgumentException], [InvalidOperationException] {
        return $false
    } catch {
        # A process of another user may not be read. WMI may tell when it was started.
        $query = 'select CreationDate from Win32_Process where ProcessId = ' + [int]$id
        $found = Get-CimInstance -Query $query
        if ($found -and $found.CreationDate) { return Test-Moment $found.CreationDate $started }
        throw
    }
}

# The process, held open: until it is closed, no other process gets its id. Nothing if it has ended, or
# if the id is that of another process by now. Throws if that cannot be known.
function Open-Process($id, $started) {
    try {
        $process = [Diagnostics.Process]::GetProcessById($id)
        [void]$process.Handle
        if (-not $process.HasExited -and (Test-Moment $process.StartTime $started)) { return $process }
    } catch [ArgumentException], [InvalidOperationException] { }
    return $null
}

# Ends a process and its descendants, parents first, so that none reports the end of a child; returns
# how many it ended. What it could not end is in $left; what may not be opened is in the file of the run
# ($folder of the caller) before the first is ended. A process that was started by a descendant that has
# ended before is not found: its parent's id may be another process by now.
function Stop-Tree($id, $started) {
    $top = Open-Process $id $started
    if (-not $top) { return 0 }
    $tree = @{}
    $found = New-Object Collections.ArrayList
    $tree[$top.Id] = $top
    [void]$found.Add($top)
    $ended = 0
    try {
        for ($turn = 0; $turn -lt 5; $turn++) {
            $all = @(Get-CimInstance -Query 'select ProcessId, ParentProcessId, CreationDate from Win32_Process')
            Add-Descendants $tree $found $all
            # Before the first kill: this may be cut off after it.
            try { Save-Left $folder } catch { }
            $live = @($found | Where-Object { -not $_.HasExited })
            if (-not $live) { break }
            foreach ($one in $live) {
                try { $one.Kill(); $ended++ } catch { }
            }
            Start-Sleep -Milliseconds 100
        }
    } finally {
        foreach ($one in $found) {
            if (-not $one.HasExited) { $left[$one.Id] = $one.StartTime.ToUniversalTime().Ticks }
        }
    }
    return $ended
}

# True if something that could not be ended lives. Throws if that cannot be known.
function Test-Left {
    foreach ($id in $left.Keys) {
        if (Test-Alive $id $left[$id]) { return $true }
    }
    return $false
}

# The words of `left`; nothing if it is not there. Throws if it is empty or torn, as a full disk leaves
# it: then something may live that it does not name.
function Read-Left($folder) {
    $words = @(Read-Mark ([IO.Path]::Combine($folder, 'left')))
    if ($words.Count % 3) { throw 'the list of what could not be ended is not whole' }
    return $words
}

# Adds what could not be ended to the file of the run, so that the next cancel looks at it.
function Save-Left($folder) {
    if (-not $left.Count) { return }
    $known = ' ' + (@(Read-Left $folder) -join ' ') + ' '
    $marks = ''
    foreach ($id in $left.Keys) {
        $mark = "$id $($left[$id]) $(Get-Boot) "
        if (-not $known.Contains(' ' + $mark)) { $marks += $mark }
    }
    if (-not $marks) { return }
    $bytes = [Text.Encoding]::ASCII.GetBytes($marks)
    $file = Open-Alone ([IO.Path]::Combine($folder, 'left'))
    try {
        [void]$file.Seek(0, 'End')
        $file.Write($bytes, 0, $bytes.Length)
    } finally {
        $file.Dispose()
    }
}

# True if something lives that earlier cancels could not end. Throws if that cannot be known.
function Test-Remaining($folder) {
    $words = @(Read-Left $folder)
    for ($at = 0; $at + 2 -lt $words.Count; $at += 3) {
        if ($words[$at + 2] -eq (Get-Boot) -and (Test-Alive $words[$at] $words[$at + 1])) { return $true }
    }
    return $false
}

# Ends what earlier cancels could not end; returns how many processes it ended. Throws if it is not
# known what that is.
function Stop-Left($folder) {
    $words = @(Read-Left $folder)
    $ended = 0
    for ($at = 0; $at + 2 -lt $words.Count; $at += 3) {
        if ($words[$at + 2] -ne (Get-Boot)) { continue }
        try {
            $ended += Stop-Tree $words[$at] $words[$at + 1]
        } catch {
            $left[[int]$words[$at]] = $words[$at + 1]
        }
    }
    return $ended
}

# Adds the descendants of the processes in the tree, held open, each after its parent. None of them is
# this process. One that may not be opened is in $left.
function Add-Descendants($tree, $found, $all) {
    do {
        $more = $false
        foreach ($one in $all) {
            $child, $parent = [int]$one.ProcessId, $tree[[int]$one.ParentProcessId]
            if (-not $parent -or $child -eq $PID -or $tree.ContainsKey($child)) { continue }
            try {
                $created = $one.CreationDate.ToUniversalTime().Ticks
                # An older process only has the same number for its parent.
                if ($created + $slack -lt $parent.StartTime.ToUniversalTime().Ticks) { continue }
            } catch { continue }
            try {
                $process = Open-Process $child $created
            } catch {
                $left[$child] = $created
                continue
            }
            if ($process) {
                $tree[$child] = $process
                [void]$found.Add($process)
                $more = $true
            }
        }
    } while ($more)
}

# Not the keeper, nor its console: it records the end. After a reboot there is nothing to end.
function Stop-Program($folder) {
    $program = @(Read-Mark ([IO.Path]::Combine($folder, 'program')))
    if (-not $program -or $program[2] -ne (Get-Boot)) { return 0 }
    return Stop-Tree $program[0] $program[1]
}

# --- the state of a run

# N nothing is known, V void, E it is about to begin, L it lives, D it has ended, G it is gone. Throws
# if that cannot be known.
function Get-State($folder) {
    for ($turn = 0; $turn -lt 2; $turn++) {
        $script:end = @(Read-Mark ([IO.Path]::Combine($folder, 'end')))
        if ($script:end) {
            if ($script:end[0] -eq 'n') { return 'V' }
            return 'D'
        }
        $void = Test-Mark ([IO.Path]::Combine($folder, 'void'))
        $keeper = @(Read-Mark ([IO.Path]::Combine($folder, 'keeper')))
        if (-not $keeper) {
            if ($void) { return 'V' }
            if (Test-Mark ([IO.Path]::Combine($folder, 'start'))) { return 'E' }
            return 'N'
        }
        # A keeper that is not alive may have written the end since that was read.
        if ($keeper[2] -eq (Get-Boot) -and (Test-Alive $keeper[0] $keeper[1])) { return 'L' }
    }
    return 'G'
}

# The state, and L without a keeper as long as the program lives.
function Get-Life($folder) {
    $state = Get-State $folder
    if ($state -eq 'G') {
        $program = @(Read-Mark ([IO.Path]::Combine($folder, 'program')))
        if ($program -and $program[2] -eq (Get-Boot) -and (Test-Alive $program[0] $program[1])) { return 'L' }
    }
    return $state
}

# The same; a start whose keeper has not come within two minutes is voided: it never comes if the host
# was started again in between.
function Get-Settled($folder) {
    $state = Get-Life $folder
    if ($state -ne 'E') { return $state }
    $age = [DateTime]::UtcNow - [IO.File]::GetLastWriteTimeUtc([IO.Path]::Combine($folder, 'start'))
    if ([Math]::Abs($age.TotalMinutes) -le 2) { return $state }
    [void](New-Mark ([IO.Path]::Combine($folder, 'void')) '')
    return Get-Life $folder
}

# Waits for a run that is about to begin. If its keeper does not come, it is voided.
function Wait-State($folder) {
    $state = Get-State $folder
    for ($turn = 0; $state -eq 'E' -and $turn -lt 600; $turn++) {
        if ($turn -eq 300) { [void](New-Mark ([IO.Path]::Combine($folder, 'void')) '') }
        Start-Sleep -Milliseconds 100
        $state = Get-State $folder
    }
    # A keeper that never came removes nothing.
    if ($state -eq 'V' -and [IO.Directory]::Exists($folder)) { Remove-Inputs $folder }
    return $state
}

function Find-Folder($key) {
    return [IO.Path]::Combine($runs, $key)
}

function Read-Store {
    return [string]@(Read-Mark ([IO.Path]::Combine($root, 'id')))[0]
}

# --- the operations

# False for a user who never logged on: no profile, or the one that is copied for new users.
function Test-Profile {
    $own = [Environment]::GetFolderPath('UserProfile')
    $list = 'HKEY_LOCAL_MACHINE\SOFTWARE\Microsoft\Windows NT\CurrentVersion\ProfileList'
    $new = [Microsoft.Win32.Registry]::GetValue($list, 'Default', $null)
    return [IO.Path]::IsPathRooted($own) -and $own -ne $new
}

function Invoke-Hello {
    if (-not (Test-Profile)) {
        Say 'X profile'
        return
    }
    try {
        New-Folder $root
        New-Folder $runs
        [void](Move-Mark ([IO.Path]::Combine($root, 'id')) $p.store)
        [void](Get-Boot)
    } catch {
        Say 'X'
        return
    }
    Say ('I ' + (Read-Store) + ' ' + (Get-Boot))
}

# The bytes that follow the parameters.
function Read-Data($size) {
    $bytes = New-Object byte[] $size
    for ($at = 0; $at -lt $size; $at += $read) {
        $read = $stdin.Read($bytes, $at, $size - $at)
        if ($read -le 0) { exit 97 }
    }
    return , $bytes
}

function Invoke-Start {
    $data = Read-Data $p.bytes
    if ((Read-Store) -ne $p.store -or (Get-Boot) -ne $p.boot) {
        Say 'I'
        return
    }
    $folder = Find-Folder $p.key
    $start = [IO.Path]::Combine($folder, 'start')
    # After this record, silence does not mean that nothing was started.
    Say 'H'
    try {
        New-Folder $folder
        if (-not (New-Mark $start $p.digest)) {
            Say 'S'
            return
        }
    } catch {
        Say 'F'
        return
    }
    try {
        # The bootstrap line has read this helper into $h, and its parameters into $p.
        [IO.File]::WriteAllText([IO.Path]::Combine($folder, 'order'), $global:p)
        [IO.File]::WriteAllBytes([IO.Path]::Combine($folder, 'data'), $data)
        [IO.File]::WriteAllText([IO.Path]::Combine($folder, 'spool.ps1'), $global:h)
        [IO.File]::WriteAllText([IO.Path]::Combine($folder, 'ending'), ''.PadRight(64))
        Get-ChildItem env: | Select-Object @('Name', 'Value') | Export-Clixml ([IO.Path]::Combine($folder, 'variables'))
    } catch {
        Undo-Start $folder
        return
    }
    try {
        if (-not (Start-Keeper $folder)) {
            Undo-Start $folder
            return
        }
    } catch {
        # WMI may have started it all the same: it is voided, and counts if it came before that.
        [void](New-Mark ([IO.Path]::Combine($folder, 'void')) '')
        if ((Wait-State $folder) -eq 'V') {
            Remove-Inputs $folder
            Say 'F'
            return
        }
    }
    Send-Run $folder
}

# Nothing was started: the start can be repeated.
function Undo-Start($folder) {
    Remove-Inputs $folder
    [IO.File]::Delete([IO.Path]::Combine($folder, 'ending'))
    [IO.File]::Delete([IO.Path]::Combine($folder, 'start'))
    Say 'F'
}

# False if WMI says that it started nothing. If it throws, that is unknown.
function Start-Keeper($folder) {
    $file = [IO.Path]::Combine($folder, 'spool.ps1').Replace("'", "''")
    $place = $root.Replace("'", "''")
    $code = "& ([scriptblock]::Create([IO.File]::ReadAllText('$file'))) `$null @{op='keep'; key='$($p.key)'; root='$place'}"
    $encoded = [Convert]::ToBase64String([Text.Encoding]::Unicode.GetBytes($code))
    $line = "powershell.exe -NoProfile -NonInteractive -ExecutionPolicy Bypass -EncodedCommand $encoded"
    $hidden = New-CimInstance -ClassName Win32_ProcessStartup -ClientOnly -Property @{ShowWindow = [uint16]0}
    $given = @{CommandLine = $line; CurrentDirectory = $folder; ProcessStartupInformation = $hidden}
    $made = Invoke-CimMethod -ClassName Win32_Process -MethodName Create -Arguments $given
    return $made.ReturnValue -eq 0
}

function Invoke-Attach {
    if ((Read-Store) -ne $p.store) {
        Say 'I'
        return
    }
    Send-Run (Find-Folder $p.key)
}

# Says how the run stands, then sends its output from the offsets on, and its end.
function Send-Run($folder) {
    $state = Wait-State $folder
    # After a reboot only an end counts: the record of a start may be lost.
    if ($state -ne 'D' -and (Get-Boot) -ne $p.boot) { $state = 'G' }
    $digest = [string]@(Read-Mark ([IO.Path]::Combine($folder, 'start')))[0]
    if ($digest -and $digest -ne $p.digest) {
        Say 'O'
        return
    }
    Say ('A ' + $state)
    if ('L', 'D' -notcontains $state) { return }
    $files = @($null, $null)
    $pause, $quiet = 50, 0
    while ($true) {
        # Read before the files, so that the last bytes are never missed.
        $state = Get-State $folder
        $sent = 0
        foreach ($number in 0, 1) {
            $path = [IO.Path]::Combine($folder, [string]($number + 1))
            if (-not $files[$number] -and (Test-Mark $path)) {
                $files[$number] = [IO.File]::Open($path, 'Open', 'Read', 'ReadWrite, Delete')
                [void]$files[$number].Seek($p.offsets[$number], 'Begin')
            }
            if ($files[$number]) { $sent += Send-Rest $files[$number] ($number + 1) }
        }
        if ($sent) {
            $pause, $quiet = 50, 0
            continue
        }
        if ($state -ne 'L') { break }
        Start-Sleep -Milliseconds $pause
        $pause, $quiet = [Math]::Min($pause * 2, 200), ($quiet + $pause)
        if ($quiet -ge 5000) {
            Say '.'
            $quiet = 0
        }
    }
    if ($state -eq 'D') { Say ('D ' + $script:end[0] + ' ' + $script:end[1]) } else { Say $state }
}

function Send-Rest($file, $number) {
    $bytes = New-Object byte[] 65536
    $sent = 0
    while ($sent -lt 4194304 -and ($size = $file.Read($bytes, 0, $bytes.Length)) -gt 0) {
        if (-not $sent) { Say ([string]$number) }
        $stdout.Write($bytes, 0, $size)
        $stdout.Flush()
        $sent += $size
    }
    return $sent
}

function Invoke-Look {
    $folder = Find-Folder $p.key
    $state = Get-Settled $folder
    # What a cancel could not end is a part of the run.
    if ('D', 'G' -contains $state -and (Test-Remaining $folder)) { $state = 'L' }
    if ($state -eq 'D') { Say ('K D ' + $script:end[0] + ' ' + $script:end[1]) } else { Say "K $state - -" }
}

function Invoke-Cancel {
    $folder = Find-Folder $p.key
    New-Folder $folder
    [void](New-Mark ([IO.Path]::Combine($folder, 'void')) '')
    $state = Wait-State $folder
    if ($state -eq 'V') {
        Say 'C never_started - -'
        return
    }
    if ($state -eq 'D' -and -not (Test-Mark ([IO.Path]::Combine($folder, 'left')))) {
        Say ('C already_finished ' + $script:end[0] + ' ' + $script:end[1])
        return
    }
    $keeper = @(Read-Mark ([IO.Path]::Combine($folder, 'keeper')))
    try {
        $ended = 0
        if ($state -eq 'L') {
            # On a full disk it stays empty, and `void` says the same.
            try { [void](New-Mark ([IO.Path]::Combine($folder, 'cause')) 'cancel') } catch { }
            for ($turn = 0; $state -eq 'L' -and $turn -lt 50; $turn++) {
                $ended += Stop-Program $folder
                Start-Sleep -Milliseconds 100
                $state = Get-State $folder
            }
            if ($state -eq 'L') { $ended += Stop-Tree $keeper[0] $keeper[1] }
        }
        if ($state -eq 'G') { $ended += Stop-Program $folder }
        # Last: it throws if its list is not whole, and the run ends all the same.
        $ended += Stop-Left $folder
    } finally {
        Save-Left $folder
    }
    if (Test-Left) {
        Say 'C unreachable - -'
        return
    }
    $state = Get-Life $folder
    if ($state -eq 'G' -and $ended) {
        # Of a run that was lost before, nothing says whether a signal or this ended it.
        $cause = if (Test-Mark ([IO.Path]::Combine($folder, 'cause'))) { 'cancel' } else { '-' }
        Set-End 's9' $cause 10
        $state = Get-State $folder
    }
    if ($state -eq 'D') {
        $proof = if ($ended -or $script:end[1] -eq 'cancel') { 'killed' } else { 'already_finished' }
        Say ("C $proof " + $script:end[0] + ' ' + $script:end[1])
    } elseif ($state -eq 'G') {
        Say 'C already_finished - -'
    } else {
        # It, or its keeper, may not be ended by this user.
        Say 'C unreachable - -'
    }
}

# `all` or `output`. A run that lives is left alone; without its output it keeps its record. Says the
# places in the list of those whose files remain.
function Invoke-Clean {
    $kept = @()
    for ($at = 0; $at -lt $p.keys.Count; $at++) {
        # What one run holds open must not keep the others.
        try { $done = Clear-Run (Find-Folder $p.keys[$at]) } catch { $done = $false }
        if (-not $done) { $kept += $at }
    }
    try { Remove-Leftovers } catch { }
    Say ((@('R') + $kept) -join ' ')
}

# Returns true if nothing is left to remove.
function Clear-Run($folder) {
    if (-not [IO.Directory]::Exists($folder)) { return $true }
    if ('L', 'E' -contains (Get-Settled $folder)) { return $false }
    if ($p.what -eq 'all') {
        Remove-Folder $folder
        return -not [IO.Directory]::Exists($folder)
    }
    Remove-Inputs $folder
    foreach ($number in '1', '2') {
        $path = [IO.Path]::Combine($folder, $number)
        if (-not [IO.File]::Exists($path)) { continue }
        # A descendant that is left may still have it open for writing.
        $file = [IO.File]::Open($path, 'Open', 'ReadWrite', 'ReadWrite, Delete')
        try { $file.SetLength(0) } finally { $file.Dispose() }
    }
    return $true
}

# The folders of programs that were not durable, whose helper has ended without removing them.
function Remove-Leftovers {
    foreach ($folder in [IO.Directory]::GetDirectories([IO.Path]::GetTempPath(), 'opsjobs-*')) {
        if ([IO.Path]::GetFileName($folder) -notmatch '^opsjobs-[0-9a-f]{32}$') { continue }
        $age = [DateTime]::UtcNow - [IO.Directory]::GetCreationTimeUtc($folder)
        try {
            $owner = @(Read-Mark ([IO.Path]::Combine($folder, 'owner')))
            $gone = $owner.Count -eq 2 -and -not (Test-Alive $owner[0] $owner[1])
        } catch { continue }
        if (($gone -and $age.TotalMinutes -gt 1) -or (-not $owner -and $age.TotalHours -gt 24)) {
            Remove-Folder $folder
        }
    }
}

# --- the keeper

function Invoke-Keep {
    $folder = Find-Folder $p.key
    $me = Get-Name ([Diagnostics.Process]::GetCurrentProcess())
    if (-not (Move-Mark ([IO.Path]::Combine($folder, 'keeper')) $me)) { return }
    $void = $true  # if that cannot be known, it does not begin
    try { $void = Test-Mark ([IO.Path]::Combine($folder, 'void')) } catch { }
    if ($void) {
        Set-End 'n' '-'
        return
    }
    $process = $null
    try {
        $order = [IO.File]::ReadAllText([IO.Path]::Combine($folder, 'order')) | ConvertFrom-Json
        $given = Expand-Order $order
    } catch {
        Set-End '0' 'storage'
        return
    }
    if ($order.folder -and -not [IO.Directory]::Exists($order.folder)) {
        Set-End '0' 'folder'
        return
    }
    $found = $null
    foreach ($name in $order.interpreters) {
        $found = Find-Interpreter $name
        if ($found) { break }
    }
    if (-not $found) {
        Set-End '0' 'interpreter'
        return
    }
    $place = if ($order.folder) { $order.folder } else { [IO.Path]::GetDirectoryName($root) }
    # The program writes to the files itself: its bytes are not touched.
    $more = @{
        FilePath = $found
        # Brackets in it are no pattern.
        WorkingDirectory = [Management.Automation.WildcardPattern]::Escape($place)
        RedirectStandardInput = [IO.Path]::Combine($folder, 'input')
        RedirectStandardOutput = [IO.Path]::Combine($folder, '1')
        RedirectStandardError = [IO.Path]::Combine($folder, '2')
        NoNewWindow = $true
        PassThru = $true
    }
    if ($given) { $more.ArgumentList = $given }
    # WMI gives the keeper the code page of the host, not the 65001 of a shell.
    try {
        [Console]::InputEncoding = [Console]::OutputEncoding = New-Object Text.UTF8Encoding $false
    } catch { }
    try {
        $process = Start-Process @more
    } catch {
        if ($_.FullyQualifiedErrorId -eq 'InvalidOperationException,Microsoft.PowerShell.Commands.StartProcessCommand') {
            Set-End '0' 'interpreter'
            return
        }
        # It may run, or have ended before its id was looked up (ArgumentException): it counts as lost.
        Remove-Inputs $folder
        return
    }
    # Without the handle there is no exit code. A program that has ended by now may have none.
    try { $handle = $process.Handle } catch { $handle = $null }
    # From here on it runs, whatever cannot be written or read: the keeper waits for its end.
    $name = $null
    try { $name = Get-Name $process } catch { }
    Wait-Program $process $name $order
    try { $code = $process.ExitCode } catch { $code = $null }
    # -1 is what a kill gives: with another code it ended by itself, before it was stopped.
    $cause = ''
    try {
        if ($code -eq -1) { $cause = Read-Cause $folder }
    } catch { $code = $null }
    if ($null -eq $code) {
        # It ran, and how it ended is not known: without an end it counts as lost.
        Remove-Inputs $folder
        return
    }
    if ($cause) { Set-End 's9' $cause; return }
    $cause = '-'
    try { if ((Test-Doubt $code) -and -not (Test-Room)) { $cause = 'disk_full' } } catch { }
    Set-End $code $cause
}

# The file of an interpreter; nothing if there is none. A path may have brackets, which are a pattern to
# Get-Command.
function Find-Interpreter($name) {
    if ([IO.Path]::IsPathRooted($name) -and [IO.File]::Exists($name)) { return $name }
    $found = Get-Command -Name $name -CommandType Application -ErrorAction SilentlyContinue | Select-Object -First 1
    if ($found) { return $found.Definition }
}

# Why the program was ended; nothing if that was not done here. On a full disk the file may be empty.
function Read-Cause($folder) {
    $cause = [string]@(Read-Mark ([IO.Path]::Combine($folder, 'cause')))[0]
    if ($cause) { return $cause }
    if ($script:cause) { return $script:cause }
    if (Test-Mark ([IO.Path]::Combine($folder, 'void'))) { return 'cancel' }
    return ''
}

# Output that a full disk did not take ends with a whole block, or the program failed of it.
function Test-Doubt($code) {
    if ($code -ne 0) { return $true }
    foreach ($number in '1', '2') {
        $size = (New-Object IO.FileInfo ([IO.Path]::Combine($folder, $number))).Length
        if ($size -gt 0 -and $size % 512 -eq 0) { return $true }
    }
    return $false
}

# False if the disk does not take a block.
function Test-Room {
    $path = [IO.Path]::Combine($folder, 'room')
    try {
        [IO.File]::WriteAllBytes($path, (New-Object byte[] 4096))
        return $true
    } catch {
        return $false
    } finally {
        try { [IO.File]::Delete($path) } catch { }
    }
}

# Writes the next bytes of the data to a file.
function Copy-Next($data, $size, $path) {
    $bytes = New-Object byte[] $size
    if ($data.Read($bytes, 0, $size) -ne $size) { throw 'the data of the run is not whole' }
    [IO.File]::WriteAllBytes($path, $bytes)
}

# Writes the files of the program, sets its variables, and returns its arguments. The data, which hold
# the secrets, are closed in any case: else they could not be removed.
function Expand-Order($order) {
    $data = [IO.File]::OpenRead([IO.Path]::Combine($folder, 'data'))
    try {
        $arguments = Expand-Data $order $data
    } finally {
        $data.Dispose()
    }
    foreach ($name in 'order', 'data') { [IO.File]::Delete([IO.Path]::Combine($folder, $name)) }
    return $arguments
}

function Expand-Data($order, $data) {
    $arguments = $order.before
    if ($null -ne $order.script) {
        $file = [IO.Path]::Combine($folder, $order.file)
        Copy-Next $data $order.script $file
        $arguments += '"' + $file + '"'
    }
    # The variables of the shell that the run was started in; WMI gives others.
    foreach ($one in Import-Clixml ([IO.Path]::Combine($folder, 'variables'))) {
        [Environment]::SetEnvironmentVariable($one.Name, $one.Value, 'Process')
    }
    foreach ($one in $order.environment) {
        [Environment]::SetEnvironmentVariable($one.name, $one.value, 'Process')
    }
    [Environment]::SetEnvironmentVariable('OPSJOBS_RUN', $order.key, 'Process')
    if ($order.secrets) {
        $secrets = [IO.Path]::Combine($folder, 'secrets')
        [void][IO.Directory]::CreateDirectory($secrets)
        foreach ($secret in $order.secrets) {
            Copy-Next $data $secret.size ([IO.Path]::Combine($secrets, $secret.name))
        }
        [Environment]::SetEnvironmentVariable('OPSJOBS_SECRETS', $secrets, 'Process')
    }
    Copy-Next $data $order.stdin ([IO.Path]::Combine($folder, 'input'))
    return $arguments + $order.after
}

# The name of a process in a file.
function Get-Name($process) {
    return "$($process.Id) $($process.StartTime.ToUniversalTime().Ticks) $(Get-Boot)"
}

# Waits for the end; ends the program if it takes too long or writes too much.
function Wait-Program($process, $name, $order) {
    $clock = [Diagnostics.Stopwatch]::StartNew()
    $failures, $noted = 0, (-not $name)
    do {
        # On a full disk it may be written later. Until then a cancel ends the keeper as well.
        try {
            if (-not $noted) { $noted = $null -ne (Move-Mark ([IO.Path]::Combine($folder, 'program')) $name) }
        } catch { }
        $cause = $null
        if ($clock.Elapsed.TotalSeconds -ge $order.timeout) { $cause = 'timeout' }
        foreach ($number in '1', '2') {
            $file = New-Object IO.FileInfo ([IO.Path]::Combine($folder, $number))
            if ($file.Exists -and $file.Length -gt $order.limit) { $cause = 'output_limit' }
        }
        if ($cause) {
            if (-not $script:cause) { $script:cause = $cause }
            try { [void](New-Mark ([IO.Path]::Combine($folder, 'cause')) $cause) } catch { }
            # WMI, which finds the descendants, may fail for a while.
            try {
                $words = $name.Split(' ')
                [void](Stop-Tree $words[0] $words[1])
            } catch {
                $failures++
                if ($failures -ge 10) { try { $process.Kill() } catch { } }
            }
        }
    } while (-not $process.WaitForExit(200))
}

# Overwrites what was reserved for it, which takes no room, and moves it into its place as a whole. As
# long as that fails, the keeper stays: it alone knows the exit code.
function Set-End($code, $cause, $turns = 600) {
    Remove-Inputs $folder
    $ending, $end = [IO.Path]::Combine($folder, 'ending'), [IO.Path]::Combine($folder, 'end')
    for ($turn = 0; $true; $turn++) {
        try {
            $file = Open-Alone $ending
            try {
                $bytes = [Text.Encoding]::ASCII.GetBytes("$code $cause".PadRight(64))
                $file.Write($bytes, 0, $bytes.Length)
            } finally {
                $file.Dispose()
            }
            [IO.File]::Move($ending, $end)
            return
        } catch {
            if ([IO.File]::Exists($end)) { return }
            if ($turn -ge $turns) { throw }
        }
        Start-Sleep -Milliseconds 500
    }
}

if ($p.op -eq 'keep') {
    Invoke-Keep
    exit 0
}
$stdout = [Console]::OpenStandardOutput()
try {
    switch ($p.op) {
        'hello' { Invoke-Hello }
        'start' { Invoke-Start }
        'attach' { Invoke-Attach }
        'look' { Invoke-Look }
        'cancel' { Invoke-Cancel }
        'clean' { Invoke-Clean }
    }
} catch {
    # What cannot be read is not taken for what is not there.
    [Console]::Error.WriteLine([string]$_)
    Say 'U'
}
exit 0
