# opsjobs-helper spool 1
# Durable runs: started at most once, followed from any byte, ended with a proof.
#
# The files of a run, in a folder of its name below .opsjobs\runs of the user:
#   start    created exclusively by whoever starts the run. Holds the digest of what runs.
#   keeper   created exclusively by the process that starts the program and waits for its end.
#            Holds <process id> <its start time> <boot>.
#   void     the run may not begin. The keeper creates `keeper` and then looks for `void`; whoever
#            voids creates `void` and then looks for `keeper`: one of the two sees the other.
#   program  <process id> <its start time> of the program
#   1 2      the output
#   cause    why the program is being ended: cancel, timeout or output_limit
#   end      <exit code, or n: never began> <cause>; moved into its place as a whole
#   order, spool.ps1, variables, input, script*, secrets
#            what is needed until the end, then removed
#
# The keeper is started by WMI, because what a WinRM shell starts ends with the shell.
# Each response is a record: the nonce, a word, its values and a newline. `1` and `2` are followed
# by bytes of that output stream, up to the next record.
param($stdin, $p)
$ErrorActionPreference = 'Stop'
$ProgressPreference = 'SilentlyContinue'
$root = $p.root  # of a keeper: WMI may give it another profile
if (-not $root) { $root = [IO.Path]::Combine([Environment]::GetFolderPath('UserProfile'), '.opsjobs') }
$runs = [IO.Path]::Combine($root, 'runs')
$stdout, $script:boot = $null, $null

function Say($words) {
    $bytes = [Text.Encoding]::ASCII.GetBytes($p.nonce + ' ' + $words + "`n")
    $stdout.Write($bytes, 0, $bytes.Length)
    $stdout.Flush()
}

# --- files

# Creates a file with this text. False if there is one: exactly one caller gets true.
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
    } finally {
        $file.Dispose()
    }
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

# The words of a file; nothing if it is not there, or is being written.
function Read-Mark($path) {
    if (-not [IO.File]::Exists($path)) { return @() }
    try {
        return @([IO.File]::ReadAllText($path).Split(' '))
    } catch {
        return @()
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
    foreach ($name in 'order', 'spool.ps1', 'variables', 'input') {
        try { [IO.File]::Delete([IO.Path]::Combine($folder, $name)) } catch { }
    }
    foreach ($file in [IO.Directory]::GetFiles($folder, 'script*')) {
        try { [IO.File]::Delete($file) } catch { }
    }
    Remove-Folder ([IO.Path]::Combine($folder, 'secrets'))
}

# --- processes

function Get-Boot {
    if (-not $script:boot) {
        $system = Get-CimInstance -ClassName Win32_OperatingSystem
        $script:boot = $system.LastBootUpTime.ToUniversalTime().ToString('yyyyMMddHHmmssffffff')
    }
    return $script:boot
}

# When this process was started; nothing if it is gone.
function Get-Start($id) {
    try {
        return [string](Get-Process -Id $id).StartTime.ToUniversalTime().Ticks
    } catch {
        return ''
    }
}

# Ends a process and its descendants; returns how many it ended. A process that was started by a
# descendant that has ended is not found.
function Stop-Tree($id, $started) {
    $ended = 0
    for ($turn = 0; $turn -lt 5; $turn++) {
        $now = Get-Start $id
        if ($now -and $now -ne $started) { break }  # the number is another process by now
        $all = @(Get-CimInstance -Query 'select ProcessId, ParentProcessId, CreationDate from Win32_Process')
        $tree = @($id)
        for ($at = 0; $at -lt $tree.Count; $at++) {
            $parent = $all | Where-Object { $_.ProcessId -eq $tree[$at] }
            foreach ($one in $all) {
                # An older process only has the same number for its parent.
                if ($one.ParentProcessId -eq $tree[$at] -and $tree -notcontains $one.ProcessId -and
                    (-not $parent -or $one.CreationDate -ge $parent.CreationDate)) {
                    $tree += $one.ProcessId
                }
            }
        }
        $live = @($tree | Where-Object { $_ -ne $PID -and (Get-Start $_) })
        if (-not $live) { break }
        foreach ($one in $live) {
            try { Stop-Process -Id $one -Force; $ended++ } catch { }
        }
        Start-Sleep -Milliseconds 100
    }
    return $ended
}

# Not the keeper, nor its console: it records the end.
function Stop-Program($folder) {
    $program = @(Read-Mark ([IO.Path]::Combine($folder, 'program')))
    if (-not $program) { return 0 }
    return Stop-Tree $program[0] $program[1]
}

# --- the state of a run

# N nothing is known, V void, E it is about to begin, L it lives, D it has ended, G it is gone.
function Get-State($folder) {
    for ($turn = 0; $turn -lt 2; $turn++) {
        $script:end = @(Read-Mark ([IO.Path]::Combine($folder, 'end')))
        if ($script:end) {
            if ($script:end[0] -eq 'n') { return 'V' }
            return 'D'
        }
        $void = [IO.File]::Exists([IO.Path]::Combine($folder, 'void'))
        $keeper = @(Read-Mark ([IO.Path]::Combine($folder, 'keeper')))
        if (-not $keeper) {
            if ($void) { return 'V' }
            if ([IO.File]::Exists([IO.Path]::Combine($folder, 'start'))) { return 'E' }
            return 'N'
        }
        # A keeper that is not alive may have written the end since that was read.
        if ($keeper[2] -eq (Get-Boot) -and (Get-Start $keeper[0]) -eq $keeper[1]) { return 'L' }
    }
    return 'G'
}

# The state, and L without a keeper as long as the program lives.
function Get-Life($folder) {
    $state = Get-State $folder
    if ($state -eq 'G') {
        $program = @(Read-Mark ([IO.Path]::Combine($folder, 'program')))
        if ($program -and (Get-Start $program[0]) -eq $program[1]) { return 'L' }
    }
    return $state
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
    return [string](Read-Mark ([IO.Path]::Combine($root, 'id')) | Select-Object -First 1)
}

# --- the operations

function Invoke-Hello {
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

function Invoke-Start {
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
        [IO.File]::WriteAllText([IO.Path]::Combine($folder, 'spool.ps1'), $global:h)
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
    $digest = [string](Read-Mark ([IO.Path]::Combine($folder, 'start')) | Select-Object -First 1)
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
            if (-not $files[$number] -and [IO.File]::Exists($path)) {
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
    $state = Get-Life $folder
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
    if ($state -eq 'D') {
        Say ('C already_finished ' + $script:end[0] + ' ' + $script:end[1])
        return
    }
    $keeper = @(Read-Mark ([IO.Path]::Combine($folder, 'keeper')))
    $ended = 0
    if ($state -eq 'L') {
        [void](New-Mark ([IO.Path]::Combine($folder, 'cause')) 'cancel')
        for ($turn = 0; $state -eq 'L' -and $turn -lt 50; $turn++) {
            $ended += Stop-Program $folder
            Start-Sleep -Milliseconds 100
            $state = Get-State $folder
        }
        if ($state -eq 'L') { $ended += Stop-Tree $keeper[0] $keeper[1] }
    }
    if ($state -eq 'G') { $ended += Stop-Program $folder }
    if ((Get-State $folder) -eq 'G' -and $ended) {
        $cause = if ([IO.File]::Exists([IO.Path]::Combine($folder, 'cause'))) { 'cancel' } else { '-' }
        [void](Move-Mark ([IO.Path]::Combine($folder, 'end')) "s9 $cause")
        Remove-Inputs $folder
    }
    if ((Get-State $folder) -eq 'D') {
        $proof = if ($ended -or $script:end[1] -eq 'cancel') { 'killed' } else { 'already_finished' }
        Say ("C $proof " + $script:end[0] + ' ' + $script:end[1])
    } else {
        Say 'C already_finished - -'
    }
}

# `all` or `output`. A run that lives is left alone; without its output it keeps its record.
function Invoke-Clean {
    foreach ($key in $p.keys) {
        # What one run holds open must not keep the others.
        try { Clear-Run (Find-Folder $key) } catch { }
    }
    Remove-Leftovers
    Say 'R'
}

function Clear-Run($folder) {
    if (-not [IO.Directory]::Exists($folder) -or 'L', 'E' -contains (Get-Life $folder)) { return }
    if ($p.what -eq 'all') {
        Remove-Folder $folder
        return
    }
    Remove-Inputs $folder
    foreach ($number in '1', '2') {
        $path = [IO.Path]::Combine($folder, $number)
        if (-not [IO.File]::Exists($path)) { continue }
        # A descendant that is left may still have it open for writing.
        $file = [IO.File]::Open($path, 'Open', 'ReadWrite', 'ReadWrite, Delete')
        try { $file.SetLength(0) } finally { $file.Dispose() }
    }
}

# The folders of programs that were not durable, whose helper has ended without removing them.
function Remove-Leftovers {
    foreach ($folder in [IO.Directory]::GetDirectories([IO.Path]::GetTempPath(), 'opsjobs-*')) {
        if ([IO.Path]::GetFileName($folder) -notmatch '^opsjobs-[0-9a-f]{32}$') { continue }
        $age = [DateTime]::UtcNow - [IO.Directory]::GetCreationTimeUtc($folder)
        $owner = @(Read-Mark ([IO.Path]::Combine($folder, 'owner')))
        $gone = $owner.Count -eq 2 -and (Get-Start $owner[0]) -ne $owner[1]
        if (($gone -and $age.TotalMinutes -gt 1) -or (-not $owner -and $age.TotalHours -gt 24)) {
            Remove-Folder $folder
        }
    }
}

# --- the keeper

function Invoke-Keep {
    $folder = Find-Folder $p.key
    $me = "$PID $(Get-Start $PID)"
    if (-not (Move-Mark ([IO.Path]::Combine($folder, 'keeper')) "$me $(Get-Boot)")) { return }
    if ([IO.File]::Exists([IO.Path]::Combine($folder, 'void'))) {
        Set-End 'n' '-'
        return
    }
    $order = [IO.File]::ReadAllText([IO.Path]::Combine($folder, 'order')) | ConvertFrom-Json
    $process = $null
    try {
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
        $found = Get-Command -Name $name -CommandType Application -ErrorAction SilentlyContinue | Select-Object -First 1
        if ($found) { break }
    }
    if (-not $found) {
        Set-End '0' 'interpreter'
        return
    }
    # The program writes to the files itself: its bytes are not touched.
    $more = @{
        FilePath = $found.Definition
        WorkingDirectory = if ($order.folder) { $order.folder } else { [IO.Path]::GetDirectoryName($root) }
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
        Set-End '0' 'interpreter'
        return
    }
    # Without the handle there is no exit code. A program that has ended by now may have none.
    try { $handle = $process.Handle } catch { $handle = $null }
    [void](Move-Mark ([IO.Path]::Combine($folder, 'program')) "$($process.Id) $(Get-Start $process.Id)")
    Wait-Program $process $order
    $cause = [string](Read-Mark ([IO.Path]::Combine($folder, 'cause')) | Select-Object -First 1)
    try { $code = $process.ExitCode } catch { $code = $null }
    if ($null -eq $code) {
        # It ran, and how it ended is not known: without an end it counts as lost.
        Remove-Inputs $folder
        return
    }
    # -1 is what Stop-Process gives: with another code it ended by itself, before it was stopped.
    if ($cause -and $code -eq -1) { Set-End 's9' $cause; return }
    $cause = '-'
    if ((Test-Doubt $code) -and -not (Test-Room)) { $cause = 'disk_full' }
    Set-End $code $cause
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

# Writes the files of the program, sets its variables, and returns its arguments.
function Expand-Order($order) {
    $bytes = if ($order.stdin) { [Convert]::FromBase64String($order.stdin) } else { New-Object byte[] 0 }
    [IO.File]::WriteAllBytes([IO.Path]::Combine($folder, 'input'), $bytes)
    $arguments = $order.before
    if ($order.script) {
        $file = [IO.Path]::Combine($folder, $order.file)
        [IO.File]::WriteAllBytes($file, [Convert]::FromBase64String($order.script))
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
            [IO.File]::WriteAllBytes([IO.Path]::Combine($secrets, $secret.name), [Convert]::FromBase64String($secret.value))
        }
        [Environment]::SetEnvironmentVariable('OPSJOBS_SECRETS', $secrets, 'Process')
    }
    [IO.File]::Delete([IO.Path]::Combine($folder, 'order'))
    return $arguments + $order.after
}

# Waits for the end; ends the program if it takes too long or writes too much.
function Wait-Program($process, $order) {
    $clock = [Diagnostics.Stopwatch]::StartNew()
    $failures = 0
    while (-not $process.WaitForExit(200)) {
        $cause = $null
        if ($clock.Elapsed.TotalSeconds -ge $order.timeout) { $cause = 'timeout' }
        foreach ($number in '1', '2') {
            $file = New-Object IO.FileInfo ([IO.Path]::Combine($folder, $number))
            if ($file.Exists -and $file.Length -gt $order.limit) { $cause = 'output_limit' }
        }
        if ($cause) {
            [void](New-Mark ([IO.Path]::Combine($folder, 'cause')) $cause)
            # WMI, which finds the descendants, may fail for a while.
            try { [void](Stop-Program $folder) } catch {
                $failures++
                if ($failures -ge 10) { try { $process.Kill() } catch { } }
            }
        }
    }
}

function Set-End($code, $cause) {
    Remove-Inputs $folder
    [void](Move-Mark ([IO.Path]::Combine($folder, 'end')) "$code $cause")
}

if ($p.op -eq 'keep') {
    Invoke-Keep
    exit 0
}
$stdout = [Console]::OpenStandardOutput()
switch ($p.op) {
    'hello' { Invoke-Hello }
    'start' { Invoke-Start }
    'attach' { Invoke-Attach }
    'look' { Invoke-Look }
    'cancel' { Invoke-Cancel }
    'clean' { Invoke-Clean }
}
exit 0
