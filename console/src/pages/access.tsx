/** Access: who may? Users, keys of programs, services. */
import { Keys } from "../access/keys.tsx";
import { Services } from "../access/services.tsx";
import { Users } from "../access/users.tsx";
import { Tabs } from "../parts/tabs.tsx";
import "../style/admin.css";

export default function Access() {
  return (
    <div class="stack">
      <h1>Access</h1>
      <Tabs
        label="Access"
        tabs={[
          { name: "users", label: "Users", content: () => <Users /> },
          { name: "keys", label: "API keys", content: () => <Keys /> },
          { name: "services", label: "Services", content: () => <Services /> },
        ]}
      />
    </div>
  );
}
