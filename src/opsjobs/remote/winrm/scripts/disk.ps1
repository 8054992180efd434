# opsjobs-helper disk 1
# Serves files: reads requests from standard input and answers each on standard output, in order.
# A message is two lengths (32 bits, little endian), a header in JSON, and bytes.
param($stdin, $p)
$ErrorActionPreference = 'Stop'
$ProgressPreference = 'SilentlyContinue'
$utf8 = New-Object Text.UTF8Encoding $false
$reader = New-Object IO.BinaryReader $stdin
$out = New-Object IO.BufferedStream ([Console]::OpenStandardOutput()), 65536
$writer = New-Object IO.BinaryWriter $out
$none = New-Object byte[] 0
$epoch = New-Object DateTime 1970, 1, 1, 0, 0, 0, ([DateTimeKind]::Utc)
$opened = @{}
$state = @{ handles = 0 }

# Files of the data deduplication have a reparse point, and are no links.
function Test-Link($info) {
    if (-not ($info.Attributes -band [IO.FileAttributes]::ReparsePoint)) { return $false }
    $PSVersionTable.PSVersion.Major -lt 5 -or [bool]$info.LinkType
}

function Get-Info($path) {
    try { $attributes = [IO.File]::GetAttributes($path) } catch {
        $why = $_.Exception.GetBaseException()
        if ($why -is [IO.FileNotFoundException] -or $why -is [IO.DirectoryNotFoundException]) { return $null }
        throw $why
    }
    if ($attributes -band [IO.FileAttributes]::Directory) { return New-Object IO.DirectoryInfo $path }
    New-Object IO.FileInfo $path
}

function Resolve-Info($path) {
    for ($links = 0; $links -lt 16; $links++) {
        $info = Get-Info $path
        if (-not $info -or -not (Test-Link $info) -or -not $info.Target) { return $info }
        $path = [IO.Path]::Combine([IO.Path]::GetDirectoryName($info.FullName), @($info.Target)[0])
    }
    $null
}

function Get-Entry($info) {
    $folder = [bool]($info.Attributes -band [IO.FileAttributes]::Directory)
    $kind = 'file'
    if ($folder) { $kind = 'folder' }
    if ($info.Attributes -band [IO.FileAttributes]::Device) { $kind = 'other' }
    if (Test-Link $info) { $kind = 'link' }
    $size = 0
    if ($kind -eq 'file') { $size = $info.Length }
    $modified = [long][Math]::Floor(($info.LastWriteTimeUtc - $epoch).TotalSeconds)
    @{ name = $info.Name; kind = $kind; size = $size; modified = $modified }
}

function Add-Handle($what) {
    $state.handles++
    $opened["$($state.handles)"] = $what
    $state.handles
}

function Send-Answer($answer, $data, $size) {
    $head = $utf8.GetBytes((ConvertTo-Json $answer -Compress -Depth 4))
    $writer.Write([int]$head.Length)
    $writer.Write([int]$size)
    $writer.Write($head)
    $writer.Write($data, 0, $size)
    $writer.Flush()
}

while ($true) {
    try { $length = $reader.ReadInt32() } catch { exit 0 }
    $size = $reader.ReadInt32()
    if ($length -lt 2 -or $length -gt 262144 -or $size -lt 0 -or $size -gt 4194304) { exit 96 }
    $head = $reader.ReadBytes($length)
    $data = $reader.ReadBytes($size)
    if ($head.Length -lt $length -or $data.Length -lt $size) { exit 97 }
    $answer = @{}
    $bytes = $none
    $count = 0
    try {
        $asked = $utf8.GetString($head) | ConvertFrom-Json
        switch ($asked.op) {
            'hello' { $answer.version = 1 }
            'look' {
                $info = if ($asked.follow) { Resolve-Info $asked.path } else { Get-Info $asked.path }
                if ($info) { $answer.entry = Get-Entry $info }
            }
            'list' {
                $folder = New-Object IO.DirectoryInfo $asked.path
                $walk = $folder.EnumerateFileSystemInfos().GetEnumerator()
                $answer.handle = Add-Handle $walk
            }
            'next' {
                $entries = @()
                $walk = $opened["$($asked.handle)"]
                while ($entries.Count -lt $asked.count -and $walk.MoveNext()) { $entries += Get-Entry $walk.Current }
                $answer.entries = $entries
            }
            'open' {
                $share = [IO.FileShare]'ReadWrite, Delete'
                $answer.handle = Add-Handle (New-Object IO.FileStream $asked.path, 'Open', 'Read', $share, 65536)
            }
            'draft' {
                $share = [IO.FileShare]'ReadWrite, Delete'
                $how = if ($asked.new) { 'CreateNew' } else { 'Open' }
                $answer.handle = Add-Handle (New-Object IO.FileStream $asked.path, $how, 'Write', $share, 65536)
            }
            'read' {
                $file = $opened["$($asked.handle)"]
                [void]$file.Seek($asked.offset, 'Begin')
                $bytes = New-Object byte[] $asked.size
                while ($count -lt $asked.size) {
                    $read = $file.Read($bytes, $count, $asked.size - $count)
                    if ($read -le 0) { break }
                    $count += $read
                }
            }
            'write' {
                $file = $opened["$($asked.handle)"]
                [void]$file.Seek($asked.offset, 'Begin')
                $file.Write($data, 0, $data.Length)
            }
            'sync' { $opened["$($asked.handle)"].Flush($true) }
            'close' {
                $done = $opened["$($asked.handle)"]
                $opened.Remove("$($asked.handle)")
                if ($done) { $done.Dispose() }
            }
            'digest' {
                $share = [IO.FileShare]'ReadWrite, Delete'
                $file = New-Object IO.FileStream $asked.path, 'Open', 'Read', $share, 1048576
                $hash = [Security.Cryptography.SHA256]::Create()
                try { $answer.sha256 = [BitConverter]::ToString($hash.ComputeHash($file)).Replace('-', '').ToLower() }
                finally { $file.Dispose(); $hash.Dispose() }
            }
            'replace' {
                $there = Get-Info $asked.path
                if ($there -and (Test-Link $there)) { $there.Delete(); $there = $null }
                # It keeps the attributes and the permissions of the file that it replaces.
                if ($there) { [IO.File]::Replace($asked.draft, $asked.path, [NullString]::Value, $true) }
                else { [IO.File]::Move($asked.draft, $asked.path) }
            }
            'remove' {
                $there = Get-Info $asked.path
                if ($there) { $there.Delete() }
            }
            'folder' { [void][IO.Directory]::CreateDirectory($asked.path) }
            default { throw "unknown request $($asked.op)" }
        }
    } catch {
        $answer = @{ error = [string]$_.Exception.GetBaseException().Message }
        $count = 0
    }
    Send-Answer $answer $bytes $count
}
