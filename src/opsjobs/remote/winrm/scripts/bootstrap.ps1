$ProgressPreference='SilentlyContinue'
$i=[Console]::OpenStandardInput()
function q($n){$d=New-Object byte[] $n;$o=0;while($o -lt $n){$k=$i.Read($d,$o,$n-$o);if($k -le 0){exit 97};$o+=$k};[Text.Encoding]::UTF8.GetString($d)}
$l='';while(($c=q 1) -ne "`n"){$l+=$c}
$s=$l.Split(' ');$h=q ([int]$s[0]);$p=q ([int]$s[1])
& ([scriptblock]::Create($h)) $i ($p|ConvertFrom-Json)
