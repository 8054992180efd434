# opsjobs-helper run 1
# Runs a program with files: a script, or secrets. Reports on standard error, after the nonce, that
# it begins ("B"), or why it does not ("W interpreter", "W storage"). The script and the secrets follow
# the parameters as bytes, so that no cmdlet is given them: a host may log what cmdlets are given.
param($stdin, $p)
$ErrorActionPreference = 'Stop'
$ProgressPreference = 'SilentlyContinue'
$folder = $null

function Say($words) {
    [Console]::Error.Write($p.nonce + ' ' + $words + "`n")
    [Console]::Error.Flush()
}

function Fail($cause) {
    Say ('W ' + $cause)
    Leave 1
}

function Leave($code) {
    if ($folder -and [IO.Directory]::Exists($folder)) {
        try { [IO.Directory]::Delete($folder, $true) } catch { }
    }
    exit $code
}

# Only this user and the system may read the folder.
function New-Place {
    $place = [IO.Path]::Combine([IO.Path]::GetTempPath(), 'opsjobs-' + $p.place)
    $rights = New-Object Security.AccessControl.DirectorySecurity
    $rights.SetAccessRuleProtection($true, $false)
    $me = [Security.Principal.WindowsIdentity]::GetCurrent().User
    $system = New-Object Security.Principal.SecurityIdentifier 'S-1-5-18'
    foreach ($who in $me, $system) {
        $rule = New-Object Security.AccessControl.FileSystemAccessRule ($who, 'FullControl', 'ContainerInherit,ObjectInherit', 'None', 'Allow')
        $rights.AddAccessRule($rule)
    }
    $made = New-Item -ItemType Directory -Path $place
    Set-Acl -Path $made.FullName -AclObject $rights
    $made.FullName
}

# The next bytes of the input.
function Read-Next($size) {
    $bytes = New-Object byte[] $size
    for ($at = 0; $at -lt $size; $at += $read) {
        $read = $stdin.Read($bytes, $at, $size - $at)
        if ($read -le 0) { Leave 97 }
    }
    return , $bytes
}

$found = $null
foreach ($name in $p.interpreters) {
    # A path may have brackets, which are a pattern to Get-Command.
    if ([IO.Path]::IsPathRooted($name) -and [IO.File]::Exists($name)) {
        $found = $name
        break
    }
    $command = Get-Command -Name $name -CommandType Application -ErrorAction SilentlyContinue | Select-Object -First 1
    if ($command) {
        $found = $command.Definition
        break
    }
}
if (-not $found) { Fail 'interpreter' }

$start = New-Object Diagnostics.ProcessStartInfo
try {
    $folder = New-Place
    # The folder of a helper that is gone is removed later (spool.ps1).
    $started = [Diagnostics.Process]::GetCurrentProcess().StartTime.ToUniversalTime().Ticks
    [IO.File]::WriteAllText([IO.Path]::Combine($folder, 'owner'), "$PID $started")
    if ($null -ne $p.script) {
        $file = [IO.Path]::Combine($folder, $p.file)
        [IO.File]::WriteAllBytes($file, (Read-Next $p.script))
    }
    if ($p.secrets) {
        $secrets = [IO.Path]::Combine($folder, 'secrets')
        [void][IO.Directory]::CreateDirectory($secrets)
        foreach ($secret in $p.secrets) {
            [IO.File]::WriteAllBytes([IO.Path]::Combine($secrets, $secret.name), (Read-Next $secret.size))
        }
        $start.EnvironmentVariables['OPSJOBS_SECRETS'] = $secrets
    }
} catch {
    Fail 'storage'
}

# Without redirection the program has the handles of this process: its bytes are not touched.
$start.FileName = $found
$start.Arguments = if ($null -ne $p.script) { $p.before + '"' + $file + '"' + $p.after } else { $p.before + $p.after }
$start.UseShellExecute = $false
$start.WorkingDirectory = (Get-Location).ProviderPath
Say 'B'
try {
    $process = [Diagnostics.Process]::Start($start)
} catch {
    Fail 'interpreter'
}
$process.WaitForExit()
Leave $process.ExitCode
